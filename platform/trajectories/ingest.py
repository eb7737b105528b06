"""Ingests trajectory files: reads them and writes what is valid to the object store and the catalog.

Called by ``looper ingest``, the control plane and the demo; benchmarks and tests read files with ``read_path``. Every
episode is kept or rejected with its reason, and the file's report counts each. One source file becomes one batch,
named by the SHA-256 of its Parquet content, so ingesting a file twice changes nothing. The object is written before
the catalog's row: if the process dies in between, the object has no row yet, and the next attempt uses it.
"""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple

import orjson

from looper.platform.catalog import Catalog
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.names import InstanceName
from looper.platform.domain.trajectory import Trajectory
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.trajectories.documents import (
    DOCUMENT_SUFFIXES,
    JSON_LINES_SUFFIXES,
    Document,
    Rejection,
    read_documents,
)
from looper.platform.trajectories.readers import READERS, select_readers
from looper.platform.trajectories.readers.reader import Reader
from looper.platform.trajectories.report import FileReport, IngestReport
from looper.platform.trajectories.table import to_parquet

log = logging.getLogger(__name__)

_MAX_UNREADABLE_HEAD = 1000
"""Number of documents at the beginning of a file that no reader recognizes before detection gives up."""


class _OpenFile(NamedTuple):
    """A file of a known format, being read."""

    format: str | None
    """None where no document could be parsed at all."""
    episodes: Iterator[Trajectory | Rejection]


def ingest_paths(
    paths: Iterable[Path], instance: InstanceName, format: str = "auto", *, catalog: Catalog, store: ObjectStore
) -> IngestReport:
    """Ingest files, and folders with all files below them.

    Args:
        paths: Files and folders.
        instance: Instance that the trajectories belong to; it is created if it is new.
        format: Name of a format; ``auto`` detects the format of each file.
        catalog: Catalog that gets the batches' rows.
        store: Object store that gets the batches.

    Returns:
        A report per file. Each file is ingested completely or not at all.

    Raises:
        InvalidInput: A path does not exist, or a file that was named itself has no known format. Files before it stay
            ingested; ingesting them again changes nothing.
        NotFound: The tenant does not exist.
    """
    readers = select_readers(format)
    files = [file for path in paths for file in _find_files(path)]
    return IngestReport(
        files=[_ingest_file(file, is_named, instance, readers, catalog, store) for file, is_named in files]
    )


def ingest_bytes(
    name: str, content: bytes, instance: InstanceName, format: str = "auto", *, catalog: Catalog, store: ObjectStore
) -> IngestReport:
    """Ingest one file that was received as bytes.

    Args:
        name: Name of the file. Its suffix says whether the file is one document or has one per line.
        content: Content of the file.
        instance: Instance that the trajectories belong to; it is created if it is new.
        format: Name of the format; ``auto`` detects it.
        catalog: Catalog that gets the batch's row.
        store: Object store that gets the batch.

    Returns:
        A report of the one file.

    Raises:
        InvalidInput: The file has no known format.
        NotFound: The tenant does not exist.
    """
    file = _detect_format(name, BytesIO(content), select_readers(format))
    if file is None:
        raise _unknown_format(name)
    return IngestReport(files=[_write_batch(name, file, instance, catalog, store)])


def read_path(path: Path, format: str = "auto") -> Iterator[tuple[FileReport, list[Trajectory]]]:
    """Read a file, or all files below a folder in the order of their names, and write nothing.

    Args:
        path: The file or folder.
        format: Name of a format; ``auto`` detects the format of each file.

    Yields:
        The report and the kept trajectories of each file.

    Raises:
        InvalidInput: The path does not exist, or it is a file of no known format.
    """
    readers = select_readers(format)
    for path_of_file, is_named in _find_files(path):
        with _open_binary(path_of_file) as stream:
            file = _detect_format(str(path_of_file), stream, readers, _load_companions(path_of_file, readers))
            if file is None and is_named:
                raise _unknown_format(path_of_file)
            counts = _IngestCounts(str(path_of_file))
            kept = list(counts.filter_kept(file)) if file else []
            yield counts.report(file), kept


class _IngestCounts:
    """Counts the episodes of one file by what happened to them."""

    def __init__(self, path: str) -> None:
        self._path = _to_text(path)
        self._kept = 0
        self._reasons = Counter[str]()

    def filter_kept(self, file: _OpenFile) -> Iterator[Trajectory]:
        for episode in file.episodes:
            if isinstance(episode, Rejection):
                log.info("%s: rejected an episode (%s): %s", self._path, episode.reason, episode.message)
                self._reasons[episode.reason] += 1
            else:
                self._kept += 1
                yield episode

    def report(self, file: _OpenFile | None) -> FileReport:
        """Return the report of a file that was read to its end; None stands for a file without trajectories."""
        rejected = self._reasons.total()
        return FileReport(
            path=self._path,
            format=file.format if file else None,
            trajectories=self._kept + rejected,
            kept=self._kept,
            rejected=rejected,
            reasons=dict(self._reasons) if file else {"not_a_trajectory_file": 1},
        )


def _ingest_file(
    path: Path, is_named: bool, instance: InstanceName, readers: list[Reader], catalog: Catalog, store: ObjectStore
) -> FileReport:
    with _open_binary(path) as stream:
        file = _detect_format(str(path), stream, readers, _load_companions(path, readers))
        if file is None:
            if is_named:
                raise _unknown_format(path)
            return _IngestCounts(str(path)).report(None)
        return _write_batch(str(path), file, instance, catalog, store)


def _write_batch(
    path: str, file: _OpenFile, instance: InstanceName, catalog: Catalog, store: ObjectStore
) -> FileReport:
    catalog.ensure_instance(instance)
    counts = _IngestCounts(path)
    content = to_parquet(counts.filter_kept(file))
    report = counts.report(file)
    if report.kept:
        batch = hashlib.sha256(content).hexdigest()[:32]
        store.put(keys.trajectories(instance, batch), content)
        catalog.add_batch(instance, batch, source=_to_text(Path(path).name), trajectories=report.kept)
    return report


def _to_text(path: str) -> str:
    """Return a path for people to read. Bytes of a file name that are not UTF-8, which Linux allows, are replaced."""
    return os.fsencode(path).decode(errors="replace")


def _detect_format(
    path: str, stream: BinaryIO, readers: list[Reader], companions: dict[str, object] | None = None
) -> _OpenFile | None:
    """Find the format by the first document that a reader recognizes.

    Documents before it, and later ones that its reader does not recognize, are rejected in their place. Returns None
    if the file has documents and no reader recognizes one of them.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in DOCUMENT_SUFFIXES | JSON_LINES_SUFFIXES:
        return None
    head: list[Rejection] = []
    has_parsed = False
    rest = read_documents(stream, is_json_lines=suffix in JSON_LINES_SUFFIXES)
    for document in rest:
        if isinstance(document, Rejection):
            head.append(document)
        elif reader := next((reader for reader in readers if reader.recognizes(document.value)), None):
            episodes = _read_episodes(reader, chain([document], rest), companions or {})
            return _OpenFile(reader.name, chain(head, episodes))
        else:
            has_parsed = True
            head.append(_reject_foreign(document))
        if len(head) == _MAX_UNREADABLE_HEAD:
            return None
    return None if has_parsed else _OpenFile(None, iter(head))


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


def _find_files(path: Path) -> list[tuple[Path, bool]]:
    """Return the files at or below ``path`` without hidden ones, and whether the caller named the file itself."""
    if path.is_dir():
        below = ((file, file.relative_to(path)) for file in sorted(path.rglob("*")) if file.is_file())
        return [(file, False) for file, inside in below if not any(part.startswith(".") for part in inside.parts)]
    if not path.exists():
        raise InvalidInput(f"path {str(path)!r} does not exist: name a trajectory file or a folder of them")
    return [(path, True)]


def _open_binary(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise InvalidInput(f"file {str(path)!r} cannot be read: {error.strerror}") from error


def _load_companions(path: Path, readers: list[Reader]) -> dict[str, object]:
    """Return the parsed companion files of a trajectory file by suffix. One that cannot be read is left out."""
    found: dict[str, object] = {}
    for suffix in {reader.companion_suffix for reader in readers if reader.companion_suffix}:
        companion = path.with_name(path.stem + suffix)
        if companion != path and companion.is_file():
            try:
                found[suffix] = orjson.loads(companion.read_bytes())
            except (orjson.JSONDecodeError, OSError) as error:
                log.warning("%s: ignored %s, which cannot be read: %s", path, companion.name, error)
    return found


def _unknown_format(path: Path | str) -> InvalidInput:
    suffixes = ", ".join(sorted(DOCUMENT_SUFFIXES | JSON_LINES_SUFFIXES))
    return InvalidInput(
        f"file {str(path)!r} has no known format: the formats are {', '.join(READERS)}, in files with suffix {suffixes}"
    )
