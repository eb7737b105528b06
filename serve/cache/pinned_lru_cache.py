"""An asynchronous LRU cache with pins. The pager uses one for the disk tier and one for the host memory tier.

Pure asyncio. Entries are identified by digest, and the cache does not know what they are.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Generic, TypeVar

from looper.platform.domain.errors import CorruptAdapter, InvalidInput, LooperError, NotFound

T = TypeVar("T")

PERMANENT_ERRORS = (NotFound, CorruptAdapter, InvalidInput)
"""Errors that an immediate retry would only repeat."""


class PinnedLRUCache(Generic[T]):
    """A cache of at most ``capacity`` entries that evicts the least recently used one.

    Pinned entries are not evicted. If all entries are pinned, a new one waits until one is unpinned.

    Attributes:
        evictions: Number of evictions since the start.
    """

    def __init__(
        self,
        load: Callable[[str], Awaitable[T]],
        evict: Callable[[str, T], Awaitable[None]],
        capacity: int,
        *,
        prerequisite: Callable[[str], AbstractAsyncContextManager[object]] = nullcontext,
        cache_errors_s: float = 10.0,
    ) -> None:
        """Create an empty cache.

        Args:
            load: Loads the entry of a digest.
            evict: Releases an entry.
            capacity: Maximum number of entries.
            prerequisite: Entered before the entry of a digest takes a place in the cache, and left after it is loaded.
                While an entry waits for its prerequisite, it evicts nothing.
            cache_errors_s: Time for which permanent errors are cached, in seconds.
        """
        self._load = load
        self._evict = evict
        self._capacity = capacity
        self._prerequisite = prerequisite
        self._cache_errors_s = cache_errors_s
        self._entries: OrderedDict[str, T] = OrderedDict()  # least recently used first
        self._pins: Counter[str] = Counter()
        self._loading: dict[str, asyncio.Task[T]] = {}
        self._reserved_places = 0  # places of entries that are being loaded
        self._errors: dict[str, tuple[float, LooperError]] = {}  # with their time of expiry
        self._held_until: dict[str, float] = {}  # time until which an unused entry is not evicted
        self.evictions = 0
        self._place_freed = asyncio.Event()

    def __contains__(self, digest: object) -> bool:
        """Tell whether the entry of ``digest`` is loaded."""
        return digest in self._entries

    def hold(self, digest: str, seconds: float) -> None:
        """Do not evict an entry for some time, whether it is loaded already or later.

        At most half of the places are held, so that there is always a place for other entries. Beyond that, nothing
        happens.

        Args:
            digest: Digest of the entry.
            seconds: Time to hold it, in seconds.
        """
        now = asyncio.get_running_loop().time()
        self._held_until = {held: until for held, until in self._held_until.items() if until > now}
        if digest in self._held_until or len(self._held_until) < self._capacity // 2:
            self._held_until[digest] = now + seconds

    async def get(self, digest: str) -> T:
        """Return an entry, and load it first if necessary. It may be evicted later, unless it is pinned.

        Concurrent calls load an entry once. NotFound, CorruptAdapter and InvalidInput are cached for a while, so that
        requests for a broken adapter do not overload the object store.

        Args:
            digest: Digest of the entry.

        Returns:
            The entry.

        Raises:
            LooperError: The entry cannot be loaded.
        """
        if digest in self._entries:
            self._entries.move_to_end(digest)
            return self._entries[digest]
        if cached := self._errors.get(digest):
            expires, error = cached
            if asyncio.get_running_loop().time() < expires:
                raise error.with_traceback(None)
            del self._errors[digest]
        task = self._loading.get(digest)
        if task is None:
            task = asyncio.create_task(self._load_entry(digest))
            # Retrieve the exception even if nobody waits: asyncio would log it otherwise.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._loading[digest] = task
        # A caller that is canceled does not cancel the task for the others.
        return await asyncio.shield(task)

    @asynccontextmanager
    async def pin(self, digest: str) -> AsyncIterator[T]:
        """Load an entry if necessary, and do not evict it inside the context.

        Args:
            digest: Digest of the entry.

        Yields:
            The entry.

        Raises:
            LooperError: The entry cannot be loaded.
        """
        self._pins[digest] += 1
        try:
            yield await self.get(digest)
        finally:
            self._pins[digest] -= 1
            if not self._pins[digest]:
                del self._pins[digest]
                self._place_freed.set()

    async def _load_entry(self, digest: str) -> T:
        try:
            async with self._prerequisite(digest):
                await self._wait_for_place()
                self._reserved_places += 1
                try:
                    entry = await self._load(digest)
                    self._entries[digest] = entry
                finally:
                    self._reserved_places -= 1
                    self._place_freed.set()
        except PERMANENT_ERRORS as error:
            self._errors[digest] = (asyncio.get_running_loop().time() + self._cache_errors_s, error)
            raise
        finally:
            del self._loading[digest]
        return entry

    async def _wait_for_place(self) -> None:
        while len(self._entries) + self._reserved_places >= self._capacity:
            victim = next((digest for digest in self._entries if not self._is_kept(digest)), None)
            if victim is None:
                self._place_freed.clear()
                await self._place_freed.wait()
                continue
            self.evictions += 1
            # Removed first: it may be requested again while it is being evicted.
            await self._evict(victim, self._entries.pop(victim))

    def _is_kept(self, digest: str) -> bool:
        return digest in self._pins or self._held_until.get(digest, 0) > asyncio.get_running_loop().time()
