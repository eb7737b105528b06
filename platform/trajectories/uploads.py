"""Ingests files that a tenant uploads. Each is read in a process of its own, with a bound on memory and on time.

The control plane calls ``ingest_upload``. What a file makes a JSON parser do is not known before it is read: 64 MiB of
``[],`` take more than 1 GiB. So the gateway reads nothing of it.
"""

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import orjson

from looper.platform.catalog import Catalog
from looper.platform.domain.errors import InvalidInput, LooperError, StoreFull, TooLarge
from looper.platform.domain.names import InstanceName
from looper.platform.objectstore import ObjectStore
from looper.platform.trajectories.ingest import write_batch
from looper.platform.trajectories.report import NO_TRAJECTORY_FILE, FileReport, IngestReport
from looper.platform.trajectories.upload_worker import DISK_FULL_STATUS, OUT_OF_MEMORY_STATUS

log = logging.getLogger(__name__)

MAX_MEMORY_BYTES = 1536 * 2**20
"""Maximum memory of the process that reads a file, in bytes. It has room for one document of 128 MiB, whose text is in
memory up to six times, but not for millions of small values."""

MAX_CPU_S = 300
"""Maximum time that the process computes, in seconds. 256 MiB of the shortest trajectories take less."""

TIMEOUT_S = 900
"""Maximum time that the process lives, in seconds. It gets the cores that inference leaves."""

MAX_BATCH_BYTES = 512 * 2**20
"""Maximum size of the Parquet file that is made of a file, in bytes."""

_MAX_OUTPUT_BYTES = 64 * 2**10
"""How much of what the process prints is read, in bytes."""


def ingest_upload(
    name: str,
    content: BinaryIO,
    instance: InstanceName,
    format: str = "auto",
    *,
    companions: Mapping[str, str] | None = None,
    is_named: bool = True,
    folder: Path,
    catalog: Catalog,
    store: ObjectStore,
) -> IngestReport:
    """Ingest one uploaded file. It blocks while a process reads the file.

    Args:
        name: Name of the file. Its suffix says whether the file is one document or has one per line.
        content: The file, from ``temporary_file``.
        instance: Instance that the trajectories belong to; it is created if it is new.
        format: Name of the format; ``auto`` detects it.
        companions: Text of the companion files by suffix.
        is_named: Whether a file without trajectories is an error. Otherwise it is reported.
        folder: Folder on the disk that temporary files are on.
        catalog: Catalog that gets the batch's row.
        store: Object store that gets the batch.

    Returns:
        A report of the one file.

    Raises:
        InvalidInput: The file has no known format.
        TooLarge: It needs too much memory or time.
        StoreFull: There is no disk space for the batch.
        NotFound: The tenant does not exist.
    """
    with temporary_file(folder) as batch:
        report = _read_in_process(name, format, content, batch, companions or {}, is_named, folder)
        batch.seek(0)
        if NO_TRAJECTORY_FILE not in report.reasons:
            write_batch(report, batch.read(), instance, catalog=catalog, store=store)
    return IngestReport(files=[report])


@contextmanager
def temporary_file(folder: Path) -> Iterator[BinaryIO]:
    """Create an empty file without a name, so that nothing of it is left when it is closed or its process dies.

    Args:
        folder: Folder on the disk that it is on; it is created if it does not exist.

    Yields:
        The open file. Only this user can read it.

    Raises:
        StoreFull: The disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed below, without its error)
    except OSError as error:
        raise disk_full(folder, error) from error
    try:
        yield file
    finally:
        # Closing writes the rest of what was written. If that fails, nobody needs it any more, and the error would hide
        # the one that a write or ``flush`` has raised.
        with suppress(OSError):
            file.close()


def disk_full(folder: Path, error: OSError | None) -> StoreFull:
    """Return the error for an upload that cannot be written to disk.

    Args:
        folder: Folder on the disk.
        error: What the system says, None if it is not known.

    Returns:
        The error.
    """
    reason = error.strerror if error else "no space left"
    return StoreFull(
        "the server has no disk space for the upload: try again later",
        detail=f"uploads cannot be written in {folder}: {reason}; free some space",
    )


def _read_in_process(
    name: str,
    format: str,
    content: BinaryIO,
    batch: BinaryIO,
    companions: Mapping[str, str],
    is_named: bool,
    folder: Path,
) -> FileReport:
    limits = (MAX_MEMORY_BYTES, MAX_BATCH_BYTES, MAX_CPU_S, TIMEOUT_S)
    command = [sys.executable, "-P", "-m", "looper.platform.trajectories.upload_worker", name, format]
    command.append("named" if is_named else "found")
    with temporary_file(folder) as beside, temporary_file(folder) as output, temporary_file(folder) as errors:
        try:
            content.flush()
            content.seek(0)
            beside.write(orjson.dumps(companions))
            beside.flush()
            beside.seek(0)
        except OSError as error:
            raise disk_full(folder, error) from error
        descriptors = (content.fileno(), batch.fileno(), beside.fileno())
        try:
            ended = subprocess.run(
                [*command, *map(str, (*descriptors, *limits))],
                pass_fds=descriptors,
                # One thread, because the cores are the engines'. No secrets, because the file decides what runs.
                env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                timeout=TIMEOUT_S + 5,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise _too_much(name) from error
        answer, trouble = _read_start(output), _read_start(errors)
    if ended.returncode < 0 or ended.returncode == OUT_OF_MEMORY_STATUS:
        # Killed by one of its limits, by the kernel, or by a library that cannot go on without memory.
        log.warning("the process that read upload %r ended with status %d", name, ended.returncode)
        raise _too_much(name)
    if ended.returncode == DISK_FULL_STATUS:
        raise disk_full(folder, None)
    if ended.returncode != 0:
        raise LooperError(f"the process that read upload {name!r} failed: {trouble.decode(errors='replace')}")
    if refusal := (parsed := orjson.loads(answer)).get("refusal"):
        raise InvalidInput(refusal)
    return FileReport.model_validate(parsed["report"])


def _read_start(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(_MAX_OUTPUT_BYTES)


def _too_much(name: str) -> TooLarge:
    return TooLarge(
        f"file {name!r} cannot be read with {MAX_MEMORY_BYTES / 2**30:g} GiB of memory in {MAX_CPU_S} s: split it into "
        "several files, or write each trajectory on a line of its own in a .jsonl file"
    )
