"""The disk tier: adapters on a replica's local disk, each in a folder that is either complete or absent.

The pager loads and evicts through ``DiskCache``. The download process writes the folders with ``write_adapter``.
"""

import asyncio
import fcntl
import itertools
import shutil
import uuid
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import IO

from looper.platform.domain.errors import StoreUnavailable
from looper.serve.cache import direct_io

Download = Callable[[str], Awaitable[None]]
"""Downloads the adapter of a digest into the folder of a ``DiskCache``, with ``write_adapter`` in any process."""

MAX_CONCURRENT_DOWNLOADS = 8
"""Maximum number of concurrent downloads, because an object store may be far away.

Hashing and packing run for one adapter at a time. Otherwise several adapters would become ready at once, their requests
would all start in the same engine step, and that step would take long.
"""


class DiskCache:
    """Loads and evicts adapters in a folder, for a ``PinnedLRUCache``.

    What an earlier process left in the folder is deleted. Verifying it would take as much reading as a download.
    """

    def __init__(self, download: Download, folder: Path) -> None:
        """Create an empty cache.

        Args:
            download: Downloads an adapter into the folder.
            folder: Folder of the cache. Its content is deleted.
        """
        self._download = download
        self._folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    async def load(self, digest: str) -> Path:
        """Download an adapter.

        Args:
            digest: Digest of the adapter.

        Returns:
            Folder of the adapter.

        Raises:
            StoreUnavailable: The disk is full, or the object store failed.
            LooperError: The download failed for another reason.
        """
        await self._download(digest)
        return self._folder / digest

    async def evict(self, digest: str, folder: Path) -> None:
        """Delete an adapter.

        Args:
            digest: Digest of the adapter.
            folder: Folder of the adapter.
        """
        # Rename first: the adapter may be loaded again while its files are being deleted.
        deleted = folder.rename(_temporary_folder(self._folder))  # noqa: ASYNC240 (a rename is fast)
        await asyncio.to_thread(shutil.rmtree, deleted)


def write_adapter(files: Mapping[str, bytes | memoryview], digest: str, folder: Path) -> None:
    """Write an adapter's files to ``folder/digest``. Do nothing if that folder exists.

    Args:
        files: Content of the files, by name.
        digest: Digest of the adapter.
        folder: Folder of the cache.

    Raises:
        StoreUnavailable: The files cannot be written, for example because the disk is full.
    """
    if (folder / digest).exists():
        return  # complete: written by a process that died before it could report it
    partial = _temporary_folder(folder)
    try:
        partial.mkdir(mode=0o700)
        for name, content in files.items():
            direct_io.write(partial / name, content)
        partial.rename(folder / digest)
    except OSError as error:
        raise StoreUnavailable(
            f"adapter {digest} could not be written to {folder}: {error}; free some space there"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _temporary_folder(folder: Path) -> Path:
    return folder / f".{uuid.uuid4().hex}"


def claim_folder(root: Path) -> tuple[Path, IO[bytes]]:
    """Claim a folder below ``root`` that no other running process has claimed.

    Folders of processes that have ended are used again, so that they do not accumulate.

    Args:
        root: Parent folder. It is created if it does not exist.

    Returns:
        The folder, and its lock file. The claim ends when the file is closed.
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
