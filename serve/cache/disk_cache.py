"""Adapters on a replica's local disk: each in a folder that appears whole or not at all."""

import asyncio
import fcntl
import itertools
import shutil
import uuid
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import IO

from looper.platform.domain.errors import StoreUnavailable
from looper.serve.cache import direct_io as direct

Load = Callable[[str], Awaitable[None]]
"""Has the adapter of a digest written into a Disk's folder by ``write``, wherever that runs."""


class DiskCache:
    """What a Shelf of folders does to the disk.

    What an earlier process left in ``folder`` is dropped: verifying it costs as much reading as fetching it, and would
    have to be right.
    """

    def __init__(self, load: Load, folder: Path) -> None:
        self._load = load
        self._folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    async def bring(self, digest: str) -> Path:
        """Load the adapter; return its folder. Raises what loading raises; StoreUnavailable on a full disk."""
        await self._load(digest)
        return self._folder / digest

    async def drop(self, digest: str, folder: Path) -> None:
        # Renamed at once: it may be loaded again while its files are being removed.
        gone = folder.rename(_scratch(self._folder))  # noqa: ASYNC240 (it takes no time)
        await asyncio.to_thread(shutil.rmtree, gone)


def write(files: Mapping[str, bytes | memoryview], digest: str, folder: Path) -> None:
    """Write the adapter's files, by name, as ``folder/digest``. Raises StoreUnavailable if there is no room."""
    if (folder / digest).exists():
        return  # whole, by one who died before it could say so
    partial = _scratch(folder)
    try:
        partial.mkdir()
        for name, content in files.items():
            direct.write(partial / name, content)
        partial.rename(folder / digest)
    except OSError as error:
        raise StoreUnavailable(
            f"adapter {digest} could not be written to {folder}: {error}; free some space there"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _scratch(folder: Path) -> Path:
    return folder / f".{uuid.uuid4().hex}"


def claim_folder(root: Path) -> tuple[Path, IO[bytes]]:
    """A folder below ``root`` that no other living process has, and the lock that keeps it so until it is closed.

    Folders of processes that died are used again, so that they do not pile up.
    """
    root.mkdir(parents=True, exist_ok=True)
    for number in itertools.count():
        lock = (root / f"{number}.lock").open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        return root / str(number), lock
    raise AssertionError("unreachable")
