"""The pager brings published adapters to where the engine can use them: object store, local disk, workers' memory.

From the memory, the engine moves them into its slots by itself, step by step, as requests are scheduled.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from looper.serve.cache.disk_cache import DiskCache
from looper.serve.cache.pinned_lru_cache import PinnedLRUCache
from looper.serve.protocol import Tier

T = TypeVar("T")


class HostMemoryCache(Protocol[T]):
    """That of the engine's workers; T is what a request names an adapter in it by."""

    async def bring(self, digest: str, folder: Path) -> T: ...

    async def drop(self, digest: str, name: T) -> None: ...


class Pager(Generic[T]):
    """Keeps at most so many adapters on ``disk``, and so many in ``memory``."""

    def __init__(self, disk: DiskCache, memory: HostMemoryCache[T], *, on_disk: int, in_memory: int) -> None:
        self.disk = PinnedLRUCache(disk.bring, disk.drop, on_disk)
        self._memory = memory
        self.memory = PinnedLRUCache(self._stage, memory.drop, in_memory, needs=self.disk.pin)
        self._told = (0, 0)

    def tier(self, digest: str) -> Tier:
        """Where the adapter is now."""
        return "memory" if digest in self.memory else "disk" if digest in self.disk else "store"

    async def prefetch(self, digest: str, hold_s: float) -> None:
        """Bring the adapter to the memory, and keep it there for ``hold_s``. Raises what bringing it raises."""
        if hold_s:
            self.memory.hold(digest, hold_s)
        await self.memory.ensure(digest)

    def newly_evicted(self) -> Mapping[Tier, int]:
        """How many each tier has put out since this was asked last."""
        before, self._told = self._told, (self.memory.evicted, self.disk.evicted)
        return {"memory": self._told[0] - before[0], "disk": self._told[1] - before[1]}

    async def _stage(self, digest: str) -> T:
        return await self._memory.bring(digest, await self.disk.ensure(digest))
