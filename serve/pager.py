"""The pager: brings published adapters from the object store to local disk, and keeps there what is in use.

The engine loads an adapter from its folder, and reads it again whenever it has dropped it from memory. So a folder
appears whole or not at all, and stays for as long as a request holds a pin on it.

Pure asyncio: what the adapters are, and who loads them, is not known here.
"""

import asyncio
import fcntl
import itertools
import shutil
import uuid
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

from looper.platform.adapters import AdapterFiles
from looper.platform.domain.errors import CorruptAdapter, InvalidInput, LooperError, NotFound, StoreUnavailable

Fetch = Callable[[str], AdapterFiles]
"""Digest to verified files. Blocks; called from several threads at once."""

LASTING = (NotFound, CorruptAdapter, InvalidInput)
"""Failures that a new try at once would only repeat."""


class Pager:
    """At most ``capacity`` adapters in ``folder``, the least recently used making room for new ones.

    Where every one of them is pinned, a new one waits for the first to be let go. What an earlier process left in
    ``folder`` is dropped: verifying it costs as much reading as fetching it, and would have to be right.
    """

    def __init__(self, fetch: Fetch, folder: Path, capacity: int, *, remember_failures_s: float = 10.0) -> None:
        self._fetch = fetch
        self._folder = folder
        self._capacity = capacity
        self._remember_failures_s = remember_failures_s
        self._resident: OrderedDict[str, None] = OrderedDict()  # least recently used first
        self._pins: Counter[str] = Counter()
        self._coming: dict[str, asyncio.Task[Path]] = {}
        self._admitted = 0  # of those coming, how many have their place on disk
        self._failed: dict[str, tuple[float, LooperError]] = {}
        self._room = asyncio.Event()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    async def ensure(self, digest: str) -> Path:
        """Bring the adapter to disk unless it is there; return its folder, which only a pin keeps in place.

        However many ask, it is fetched once. Raises what fetching raised; NotFound, CorruptAdapter and InvalidInput
        are remembered for a while, so that a broken adapter in demand does not hammer the store.
        """
        if digest in self._resident:
            self._resident.move_to_end(digest)
            return self._folder / digest
        if failure := self._failed.get(digest):
            until, error = failure
            if asyncio.get_running_loop().time() < until:
                raise error.with_traceback(None)
            del self._failed[digest]
        task = self._coming.get(digest)
        if task is None:
            task = asyncio.create_task(self._bring(digest))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen, even if nobody waits
            self._coming[digest] = task
        # One who gives up waiting does not take it from the others.
        return await asyncio.shield(task)

    @asynccontextmanager
    async def pin(self, digest: str) -> AsyncIterator[Path]:
        """``ensure``, and keep the folder in place inside the ``with``."""
        self._pins[digest] += 1
        try:
            yield await self.ensure(digest)
        finally:
            self._pins[digest] -= 1
            if not self._pins[digest]:
                del self._pins[digest]
                self._room.set()

    async def _bring(self, digest: str) -> Path:
        try:
            await self._make_room()
            self._admitted += 1
            try:
                await asyncio.to_thread(self._download, digest)
                self._resident[digest] = None
            finally:
                self._admitted -= 1
                self._room.set()
        except LASTING as error:
            self._failed[digest] = (asyncio.get_running_loop().time() + self._remember_failures_s, error)
            raise
        finally:
            del self._coming[digest]
        return self._folder / digest

    async def _make_room(self) -> None:
        while len(self._resident) + self._admitted >= self._capacity:
            victim = next((digest for digest in self._resident if digest not in self._pins), None)
            if victim is None:
                self._room.clear()
                await self._room.wait()
                continue
            del self._resident[victim]
            # Renamed first: it may be asked for again while its files are being removed.
            gone = (self._folder / victim).rename(self._scratch())
            await asyncio.to_thread(shutil.rmtree, gone)

    def _download(self, digest: str) -> None:
        files = self._fetch(digest)
        partial = self._scratch()
        try:
            partial.mkdir()
            for name, content in files.by_name().items():
                (partial / name).write_bytes(content)
            partial.rename(self._folder / digest)
        except OSError as error:
            raise StoreUnavailable(
                f"adapter {digest} could not be written to {self._folder}: {error}; free some space there"
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _scratch(self) -> Path:
        return self._folder / f".{uuid.uuid4().hex}"


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
