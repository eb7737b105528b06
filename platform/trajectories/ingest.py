"""Ingests trajectory files: reads them and writes what is valid to the object store and the catalog.

Called by ``looper ingest`` and the demo, and by ``uploads`` for the control plane; benchmarks and tests read files with
``read_path``. Every episode is kept or rejected with its reason, and the file's report counts each. One source file
becomes one batch, named by the SHA-256 of its Parquet content, so ingesting a file twice changes nothing. The object is
written before the catalog's row: if the process dies in between, the object has no row yet, and the next attempt uses
it.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from looper.platform.catalog import Catalog
from looper.platform.domain.names import InstanceName
from looper.platform.domain.trajectory import Trajectory
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.trajectories.files import cannot_read, find_companions, find_files
from looper.platform.trajectories.readers import select_readers
from looper.platform.trajectories.readers.reader import Reader
from looper.platform.trajectories.reading import (
    EpisodeCounts,
    OpenFile,
    detect_format,
    parse_companions,
    unknown_format,
)
from looper.platform.trajectories.report import FileReport, IngestReport
from looper.platform.trajectories.table import to_parquet

log = logging.getLogger(__name__)


def ingest_paths(
    paths: Iterable[Path],
    instance: InstanceName,
    format: str = "auto",
    *,
    catalog: Catalog,
    store: ObjectStore,
    on_file: Callable[[Path], None] = lambda path: None,
) -> IngestReport:
    """Ingest files, and folders with all files below them.

    Args:
        paths: Files and folders.
        instance: Instance that the trajectories belong to; it is created if it is new.
        format: Name of a format; ``auto`` detects the format of each file.
        catalog: Catalog that gets the batches' rows.
        store: Object store that gets the batches.
        on_file: Called with each file before it is read.

    Returns:
        A report per file. Each file is ingested completely or not at all.

    Raises:
        InvalidInput: A path does not exist, or a file that was named itself has no known format. Files before it stay
            ingested; ingesting them again changes nothing.
        NotFound: The tenant does not exist.
    """
    readers = select_readers(format)
    reports = []
    for file in find_files(paths):
        on_file(file.path)
        reports.append(_ingest_file(file.path, file.is_named, instance, readers, catalog, store))
    return IngestReport(files=reports)


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
    for path_of_file, is_named in find_files([path]):
        with _open_binary(path_of_file) as stream:
            file = detect_format(str(path_of_file), stream, readers, _load_companions(path_of_file))
            if file is None and is_named:
                raise unknown_format(path_of_file)
            counts = EpisodeCounts(str(path_of_file))
            kept = list(counts.filter_kept(file)) if file else []
            yield counts.report(file), kept


def _ingest_file(
    path: Path, is_named: bool, instance: InstanceName, readers: list[Reader], catalog: Catalog, store: ObjectStore
) -> FileReport:
    with _open_binary(path) as stream:
        file = detect_format(str(path), stream, readers, _load_companions(path))
        if file is None:
            if is_named:
                raise unknown_format(path)
            return EpisodeCounts(str(path)).report(None)
        return _write_batch(str(path), file, instance, catalog, store)


def _write_batch(path: str, file: OpenFile, instance: InstanceName, catalog: Catalog, store: ObjectStore) -> FileReport:
    counts = EpisodeCounts(path)
    content = to_parquet(counts.filter_kept(file))
    report = counts.report(file)
    write_batch(report, content, instance, catalog=catalog, store=store)
    return report


def write_batch(
    report: FileReport, content: bytes, instance: InstanceName, *, catalog: Catalog, store: ObjectStore
) -> None:
    """Write the trajectories of one file, if it has any, to the object store and then to the catalog.

    Args:
        report: Report of the file.
        content: The kept trajectories, as Parquet.
        instance: Instance that they belong to; it is created if it is new.
        catalog: Catalog that gets the batch's row.
        store: Object store that gets the batch.

    Raises:
        NotFound: The tenant does not exist.
    """
    catalog.ensure_instance(instance)
    if report.kept:
        batch = hashlib.sha256(content).hexdigest()[:32]
        store.put(keys.trajectories(instance, batch), content)
        catalog.add_batch(instance, batch, source=Path(report.path).name, trajectories=report.kept)


def _open_binary(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise cannot_read(path, error) from error


def _load_companions(path: Path) -> dict[str, object]:
    """Return the parsed companion files of a trajectory file by suffix. One that cannot be read is left out."""
    contents = {}
    for suffix, file in find_companions(path).items():
        try:
            contents[suffix] = file.read_bytes()
        except OSError as error:
            log.warning("%s: ignored its %s, which cannot be read: %s", path, suffix, error)
    return parse_companions(path, contents)
