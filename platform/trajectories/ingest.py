"""Files of trajectories are read, and what holds goes into the object store and the catalog.

Every episode that goes in is kept or rejected with its reason; no file's report leaves one out. One source file becomes
one batch, named by the SHA-256 of its Parquet content, so ingesting a file twice changes nothing. The object is written
before the catalog's row: a process that dies in between leaves an object that nothing names and the next try finds.
"""

import hashlib
import logging
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
from looper.platform.trajectories.documents import BY_LINE, WHOLE_FILE, Document, Rejection, documents
from looper.platform.trajectories.readers import READERS, readers_for
from looper.platform.trajectories.readers.reader import Reader
from looper.platform.trajectories.report import FileReport, IngestReport
from looper.platform.trajectories.table import to_parquet

log = logging.getLogger(__name__)

# So many documents at the head of a file may be unreadable before it is said to be of no known format.
_HEAD = 1000


class _Reading(NamedTuple):
    """A file whose format is known, being read. ``format`` is None where no document of it could be parsed at all."""

    format: str | None
    episodes: Iterator[Trajectory | Rejection]


def ingest(
    paths: Iterable[Path], instance: InstanceName, format: str = "auto", *, catalog: Catalog, store: ObjectStore
) -> IngestReport:
    """Ingest files, and folders with all that is below them.

    Each file is all or nothing. Raises InvalidInput for a path that does not exist or a named file in no known format
    (files before it stay ingested; ingesting them again changes nothing), NotFound for an unknown tenant.
    """
    readers = readers_for(format)
    files = [file for path in paths for file in _files(path)]
    return IngestReport(files=[_ingest_file(file, named, instance, readers, catalog, store) for file, named in files])


def ingest_bytes(
    name: str, content: bytes, instance: InstanceName, format: str = "auto", *, catalog: Catalog, store: ObjectStore
) -> IngestReport:
    """Ingest one file that came as bytes; the suffix of ``name`` says how its documents are laid out.

    Raises InvalidInput if it is in no known format, NotFound for an unknown tenant.
    """
    reading = _open(name, BytesIO(content), readers_for(format))
    if reading is None:
        raise _unknown_format(name)
    return IngestReport(files=[_write_batch(name, reading, instance, catalog, store)])


def read_path(path: Path, format: str = "auto") -> Iterator[tuple[FileReport, list[Trajectory]]]:
    """Read a file, or every file below a folder in the order of their names. Writes nothing; raises InvalidInput."""
    readers = readers_for(format)
    for file, named in _files(path):
        with _opened(file) as stream:
            reading = _open(str(file), stream, readers, _companions(file, readers))
            if reading is None and named:
                raise _unknown_format(file)
            tally = _IngestCounts(str(file))
            kept = list(tally.kept(reading)) if reading else []
            yield tally.report(reading), kept


class _IngestCounts:
    """Counts what passes through ``kept``."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._kept = 0
        self._reasons = Counter[str]()

    def kept(self, reading: _Reading) -> Iterator[Trajectory]:
        for episode in reading.episodes:
            if isinstance(episode, Rejection):
                log.info("%s: rejected (%s): %s", self._path, episode.reason, episode.message)
                self._reasons[episode.reason] += 1
            else:
                self._kept += 1
                yield episode

    def report(self, reading: _Reading | None) -> FileReport:
        """The report of a reading that was consumed; of a file that holds no trajectories if there was none."""
        rejected = self._reasons.total()
        return FileReport(
            path=self._path,
            format=reading.format if reading else None,
            trajectories=self._kept + rejected,
            kept=self._kept,
            rejected=rejected,
            reasons=dict(self._reasons) if reading else {"not_a_trajectory_file": 1},
        )


def _ingest_file(
    file: Path, named: bool, instance: InstanceName, readers: list[Reader], catalog: Catalog, store: ObjectStore
) -> FileReport:
    with _opened(file) as stream:
        reading = _open(str(file), stream, readers, _companions(file, readers))
        if reading is None:
            if named:
                raise _unknown_format(file)
            return _IngestCounts(str(file)).report(None)
        return _write_batch(str(file), reading, instance, catalog, store)


def _write_batch(
    path: str, reading: _Reading, instance: InstanceName, catalog: Catalog, store: ObjectStore
) -> FileReport:
    catalog.ensure_instance(instance)
    tally = _IngestCounts(path)
    content = to_parquet(tally.kept(reading))
    report = tally.report(reading)
    if report.kept:
        batch = hashlib.sha256(content).hexdigest()[:32]
        store.put(keys.trajectories(instance, batch), content)
        catalog.add_batch(instance, batch, source=Path(path).name, trajectories=report.kept)
    return report


def _open(
    path: str, stream: BinaryIO, readers: list[Reader], companions: dict[str, object] | None = None
) -> _Reading | None:
    """Find the format by the first document that a reader recognises; None if there are documents and none is.

    Documents before it that no reader knows, and later ones that its reader does not, are rejected in their place.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in WHOLE_FILE | BY_LINE:
        return None
    head: list[Rejection] = []
    parsed = False
    rest = documents(stream, by_line=suffix in BY_LINE)
    for document in rest:
        if isinstance(document, Rejection):
            head.append(document)
        elif reader := next((reader for reader in readers if reader.recognises(document.value)), None):
            return _Reading(reader.name, chain(head, _episodes(reader, chain([document], rest), companions or {})))
        else:
            parsed = True
            head.append(_foreign(document))
        if len(head) == _HEAD:
            return None
    return None if parsed else _Reading(None, iter(head))


def _episodes(
    reader: Reader, rest: Iterable[Document | Rejection], companions: dict[str, object]
) -> Iterator[Trajectory | Rejection]:
    for document in rest:
        if isinstance(document, Rejection):
            yield document
        elif not reader.recognises(document.value):
            yield _foreign(document)
        else:
            if isinstance(document.value, dict) and reader.companion in companions:
                document.value[reader.companion] = companions[reader.companion]
            for episode in reader.read(document.value):
                if isinstance(episode, Rejection):
                    yield Rejection(episode.reason, f"{document.where}, {episode.message}")
                else:
                    yield episode


def _foreign(document: Document) -> Rejection:
    return Rejection("malformed_episode", f"{document.where} does not look like an episode of the file's format")


def _files(path: Path) -> list[tuple[Path, bool]]:
    """The files at or below ``path`` (hidden ones aside), and whether the caller named each one itself."""
    if path.is_dir():
        below = ((file, file.relative_to(path)) for file in sorted(path.rglob("*")) if file.is_file())
        return [(file, False) for file, inside in below if not any(part.startswith(".") for part in inside.parts)]
    if not path.exists():
        raise InvalidInput(f"path {str(path)!r} does not exist: name a trajectory file or a folder of them")
    return [(path, True)]


def _opened(file: Path) -> BinaryIO:
    try:
        return file.open("rb")
    except OSError as error:
        raise InvalidInput(f"file {str(file)!r} cannot be read: {error.strerror}") from error


def _companions(file: Path, readers: list[Reader]) -> dict[str, object]:
    """The JSON files beside ``file`` that readers join to its document, by suffix; one that cannot be read is none."""
    found: dict[str, object] = {}
    for suffix in {reader.companion for reader in readers if reader.companion}:
        beside = file.with_name(file.stem + suffix)
        if beside != file and beside.is_file():
            try:
                found[suffix] = orjson.loads(beside.read_bytes())
            except (orjson.JSONDecodeError, OSError) as error:
                log.warning("%s: ignored %s, which cannot be read: %s", file, beside.name, error)
    return found


def _unknown_format(path: Path | str) -> InvalidInput:
    suffixes = ", ".join(sorted(WHOLE_FILE | BY_LINE))
    return InvalidInput(
        f"file {str(path)!r} is in no format asked for: the known ones are {', '.join(READERS)}, in files of {suffixes}"
    )
