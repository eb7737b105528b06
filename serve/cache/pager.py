"""The pager moves adapters between the tiers of the cache: object store, disk and host memory.

``SkillServer`` pins an adapter in host memory for each request. From there, vLLM copies it into a slot by itself when
it schedules the request.
"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from looper.serve.cache.disk_cache import MAX_CONCURRENT_DOWNLOADS
from looper.serve.cache.pinned_lru_cache import PREFETCHES, PinnedLRUCache
from looper.serve.protocol import Tier

T = TypeVar("T")

MAX_PREFETCHES = 16
"""Maximum number of adapters that are prefetched at once, those that wait included."""


class DiskTier(Protocol):
    """A replica's local disk. ``DiskCache`` implements it, and the simulator of ``benchmarks/scale`` does."""

    async def load(self, digest: str) -> Path:
        """Load an adapter from the object store.

        Args:
            digest: Digest of the adapter.

        Returns:
            Folder of the adapter.
        """
        ...

    async def evict(self, digest: str, folder: Path) -> None:
        """Delete an adapter.

        Args:
            digest: Digest of the adapter.
            folder: Folder of the adapter.
        """


class HostMemory(Protocol[T]):
    """The host memory of an engine's workers. T is the engine's handle for a loaded adapter."""

    async def load(self, digest: str, folder: Path) -> T:
        """Load an adapter from disk.

        Args:
            digest: Digest of the adapter.
            folder: Folder of the adapter.

        Returns:
            The handle.
        """
        ...

    async def evict(self, digest: str, handle: T) -> None:
        """Release an adapter's memory.

        Args:
            digest: Digest of the adapter.
            handle: Its handle.
        """


class Pager(Generic[T]):
    """The disk and host memory tiers of one engine, each with its own capacity.

    Attributes:
        disk: Disk tier.
        host_memory: Host memory tier. Its misses go to the disk tier.
    """

    def __init__(
        self, disk: DiskTier, host_memory: HostMemory[T], *, disk_capacity: int, host_memory_capacity: int
    ) -> None:
        """Create empty tiers.

        Args:
            disk: Loads and evicts on disk.
            host_memory: Loads and evicts in host memory.
            disk_capacity: Maximum number of adapters on disk.
            host_memory_capacity: Maximum number of adapters in host memory.
        """
        self.disk = PinnedLRUCache(disk.load, disk.evict, disk_capacity, max_loads=MAX_CONCURRENT_DOWNLOADS)
        self._host_memory_capacity = host_memory_capacity
        self._prefetches = 0
        self._reported_evictions = (0, 0)
        self.replace_host_memory(host_memory)

    def replace_host_memory(self, host_memory: HostMemory[T]) -> None:
        """Begin with an empty host memory tier, because the engine has new workers. The disk tier stays as it is.

        Args:
            host_memory: Loads and evicts in the new workers' host memory.
        """

        async def load(digest: str) -> T:
            return await host_memory.load(digest, await self.disk.get(digest, self.disk.owner(digest)))

        self.host_memory = PinnedLRUCache(
            load, host_memory.evict, self._host_memory_capacity, prerequisite=self.disk.pin
        )
        self._reported_evictions = (0, self._reported_evictions[1])

    def find_tier(self, digest: str) -> Tier:
        """Return the fastest tier that has an adapter.

        Args:
            digest: Digest of the adapter.

        Returns:
            The tier. Slots count as memory.
        """
        return "memory" if digest in self.host_memory else "disk" if digest in self.disk else "store"

    def pin(self, digest: str, tenant: str) -> AbstractAsyncContextManager[T]:
        """Load an adapter into host memory if necessary, and do not evict it inside the context.

        Args:
            digest: Digest of the adapter.
            tenant: Tenant of the request.

        Returns:
            The context. It yields the engine's handle, or raises LooperError if the adapter cannot be loaded.
        """
        self.disk.claim(digest, tenant)
        return self.host_memory.pin(digest, tenant)

    async def prefetch(self, digest: str, hold_s: float) -> None:
        """Load an adapter into host memory and keep it there. Requests come first.

        With ``MAX_PREFETCHES`` under way, nothing happens: the adapter's first request loads it.

        Args:
            digest: Digest of the adapter.
            hold_s: Time for which it is not evicted, in seconds.

        Raises:
            LooperError: The adapter cannot be loaded.
        """
        if self._prefetches >= MAX_PREFETCHES:
            return
        if hold_s:
            self.host_memory.hold(digest, hold_s)
        self._prefetches += 1
        try:
            await self.host_memory.get(digest, PREFETCHES)
        finally:
            self._prefetches -= 1

    def take_eviction_counts(self) -> Mapping[Tier, int]:
        """Return the number of evictions since the last call.

        Returns:
            Number of evicted adapters, by tier.
        """
        memory, disk = self.host_memory.evictions, self.disk.evictions
        reported_memory, reported_disk = self._reported_evictions
        self._reported_evictions = (memory, disk)
        return {"memory": memory - reported_memory, "disk": disk - reported_disk}
