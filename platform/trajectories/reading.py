"""Reads one trajectory file: finds its format, reads its episodes, and counts those that are kept and rejected.

Called by ``ingest``, and by ``upload_worker`` in a process of its own. Imports no database.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple

import orjson

from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.trajectory import Trajectory
from looper.platform.trajectories.documents import Document, read_documents
from looper.platform.trajectories.files import JSON_LINES_SUFFIXES, SUFFIXES
from looper.platform.trajectories.readers import READERS
from looper.platform.trajectories.readers.reader import Reader
from looper.platform.trajectories.rejection import Rejection
from looper.platform.trajectories.report import NO_TRAJECTORY_FILE, FileReport

log = logging.getLogger(__name__)

_MAX_UNREADABLE_HEAD = 1000
"""Number of documents at the beginning of a file that no reader recognizes before detection gives up."""


class OpenFile(NamedTuple):
    """A file of a known format, being read."""

    format: str | None
    """None where no document could be parsed at all."""
    episodes: Iterator[Trajectory | Rejection]
    """Its episodes, each read when it is asked for."""


class EpisodeCounts:
    """Counts the episodes of one file by what happened to them.

    Args:
        path: Path or name of the file, for the report.
    """

    def __init__(self, path: str) -> None:
        self._path = os.fsencode(path).decode(errors="replace")  # Linux allows names that are not UTF-8.
        self._kept = 0
        self._reasons = Counter[str]()

    def filter_kept(self, file: OpenFile) -> Iterator[Trajectory]:
        """Read a file.

        Args:
            file: The file.

        Yields:
            The trajectories that are kept. The others are counted by reason.
        """
        for episode in file.episodes:
            if isinstance(episode, Rejection):
                log.info("%s: rejected an episode (%s): %s", self._path, episode.reason, episode.message)
                self._reasons[episode.reason] += 1
            else:
                self._kept += 1
                yield episode

    def report(self, file: OpenFile | None) -> FileReport:
        """Return the report of a file that was read to its end.

        Args:
            file: The file, None for one without trajectories.

        Returns:
            The report.
        """
        rejected = self._reasons.total()
        return FileReport(
            path=self._path,
            format=file.format if file else None,
            trajectories=self._kept + rejected,
            kept=self._kept,
            rejected=rejected,
            reasons=dict(self._reasons) if file else {NO_TRAJECTORY_FILE: 1},
        )


def detect_format(
    path: str, stream: BinaryIO, readers: list[Reader], companions: dict[str, object] | None = None
) -> OpenFile | None:
    """Find the format by the first document that a reader recognizes.

    Documents before it, and later ones that its reader does not recognize, are rejected in their place.

    Args:
        path: Path or name of the file. Its suffix says whether it is one document or has one per line.
        stream: Content of the file.
        readers: Readers that are tried, in this order.
        companions: Parsed companion files by suffix.

    Returns:
        The file, None if it has documents and no reader recognizes one of them.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        return None
    head: list[Rejection] = []
    has_parsed = False
    rest = read_documents(stream, is_json_lines=suffix in JSON_LINES_SUFFIXES)
    for document in rest:
        if isinstance(document, Rejection):
            head.append(document)
        elif reader := next((reader for reader in readers if reader.recognizes(document.value)), None):
            episodes = _read_episodes(reader, chain([document], rest), companions or {})
            return OpenFile(reader.name, chain(head, episodes))
        else:
            has_parsed = True
            head.append(_reject_foreign(document))
        if len(head) == _MAX_UNREADABLE_HEAD:
            return None
    return None if has_parsed else OpenFile(None, iter(head))


def parse_companions(path: Path | str, contents: Mapping[str, bytes]) -> dict[str, object]:
    """Parse the companion files of a trajectory file. One that cannot be parsed is left out.

    Args:
        path: Path or name of the trajectory file, for the log.
        contents: Contents of its companion files by suffix.

    Returns:
        The parsed files by suffix.
    """
    found: dict[str, object] = {}
    for suffix, content in contents.items():
        try:
            found[suffix] = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            log.warning("%s: ignored its %s, which cannot be read: %s", path, suffix, error)
    return found


def _read_episodes(
    reader: Reader, documents: Iterable[Document | Rejection], companions: dict[str, object]
) -> Iterator[Trajectory | Rejection]:
    for document in documents:
        if isinstance(document, Rejection):
            yield document
        elif not reader.recognizes(document.value):
            yield _reject_foreign(document)
        else:
            if isinstance(document.value, dict) and reader.companion_suffix in companions:
                document.value[reader.companion_suffix] = companions[reader.companion_suffix]
            for episode in reader.read(document.value):
                if isinstance(episode, Rejection):
                    yield Rejection(episode.reason, f"{document.location}, {episode.message}")
                else:
                    yield episode


def _reject_foreign(document: Document) -> Rejection:
    return Rejection("malformed_episode", f"{document.location} does not look like an episode of the file's format")


def unknown_format(path: Path | str) -> InvalidInput:
    """Return the error for a file whose format no reader knows.

    Args:
        path: Path or name of the file.

    Returns:
        The error.
    """
    return InvalidInput(
        f"file {str(path)!r} has no known format: the formats are {', '.join(READERS)}, in files with suffix "
        f"{', '.join(sorted(SUFFIXES))}"
    )
