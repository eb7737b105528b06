"""An asynchronous LRU cache with pins. The pager uses one for the disk tier and one for the host memory tier.

Pure asyncio. Entries are identified by digest, and the cache does not know what they are.

**Fairness between tenants.** Places are given to tenants in rotation, whatever number of entries each of them waits
for. A tenant with more than its share of the places, or of the loads at once, evicts its own entries, and other tenants
evict those first. It can never keep all places or all loads. Prefetches count as a tenant of their own, which comes
after all others.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from looper.platform.domain.errors import CorruptAdapter, InvalidInput, LooperError, NotFound

T = TypeVar("T")

PERMANENT_ERRORS = (NotFound, CorruptAdapter, InvalidInput)
"""Errors that an immediate retry would only repeat."""

PREFETCHES = "prefetches"
"""In place of a tenant: the entry is not for a request. It is not in the form of a tenant's hash."""

ACTIVE_S = 30.0
"""Time for which a tenant counts as active after its last request, in seconds. Active tenants share the places."""

MIN_SHARED_CAPACITY = 4
"""Minimum number of places of which one is kept from a tenant that has pinned all others."""


def no_prerequisite(digest: str, tenant: str) -> AbstractAsyncContextManager[object]:
    """Return a context that does nothing, for a cache whose entries have no prerequisite.

    Args:
        digest: Not used.
        tenant: Not used.

    Returns:
        The context.
    """
    return nullcontext()


class PinnedLRUCache(Generic[T]):
    """A cache of at most ``capacity`` entries that evicts the least recently used one, as far as that is fair.

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
        max_loads: int | None = None,
        prerequisite: Callable[[str, str], AbstractAsyncContextManager[object]] = no_prerequisite,
        cache_errors_s: float = 10.0,
    ) -> None:
        """Create an empty cache.

        Args:
            load: Loads the entry of a digest.
            evict: Releases an entry.
            capacity: Maximum number of entries.
            max_loads: Maximum number of entries that are loaded at once, at least 2. None: no limit but the capacity.
            prerequisite: Entered with a digest and its tenant before the entry takes a place in the cache, and left
                after it is loaded. While an entry waits for its prerequisite, it evicts nothing.
            cache_errors_s: Time for which permanent errors are cached, in seconds.
        """
        self._load = load
        self._evict = evict
        self._capacity = capacity
        self._max_loads = max_loads
        self._prerequisite = prerequisite
        self._cache_errors_s = cache_errors_s
        self._entries: OrderedDict[str, T] = OrderedDict()  # least recently used first
        self._owners: dict[str, str] = {}  # the tenant of each entry, also of those that are being loaded
        self._active_until: dict[str, float] = {}  # by tenant
        self._pins: Counter[str] = Counter()
        self._callers: Counter[str] = Counter()  # who wait for an entry that is being loaded
        self._loading: dict[str, asyncio.Task[T]] = {}
        self._has_place: set[str] = set()  # entries that have a place and are being loaded
        self._loads: Counter[str] = Counter()  # number of those by tenant
        self._waiting: OrderedDict[str, deque[_Waiter]] = OrderedDict()  # by tenant, next first; no empty queues
        self._errors: dict[str, tuple[float, LooperError]] = {}  # with their time of expiry
        self._held_until: dict[str, float] = {}  # time until which an unused entry is not evicted
        self.evictions = 0

    def __contains__(self, digest: object) -> bool:
        """Tell whether the entry of ``digest`` is loaded."""
        return digest in self._entries

    def list_entries(self) -> list[str]:
        """Return the digests of all loaded entries, the most recently used first."""
        return list(reversed(self._entries))

    def owner(self, digest: str) -> str:
        """Return the tenant of an entry that is loaded or being loaded.

        Args:
            digest: Digest of the entry.

        Returns:
            The tenant, or ``PREFETCHES``.
        """
        return self._owners[digest]

    def claim(self, digest: str, tenant: str) -> None:
        """Let an entry that waits as a prefetch wait as a tenant's instead. Nothing happens to other entries.

        Args:
            digest: Digest of the entry.
            tenant: The tenant.
        """
        waiter = next((waiter for waiter in self._waiting.get(PREFETCHES, ()) if waiter.digest == digest), None)
        if waiter is not None:
            self._owners[digest] = tenant
            self._stop_waiting(waiter)
            self._waiting.setdefault(tenant, deque()).append(waiter)
            self._give_places()

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

    async def get(self, digest: str, tenant: str = "") -> T:
        """Return an entry, and load it first if necessary. It may be evicted later, unless it is pinned.

        Concurrent calls load an entry once. NotFound, CorruptAdapter and InvalidInput are cached for a while, so that
        requests for a broken adapter do not overload the object store. When all callers are canceled before the entry
        has a place, it is not loaded.

        Args:
            digest: Digest of the entry.
            tenant: Tenant that the entry is for, or ``PREFETCHES``.

        Returns:
            The entry.

        Raises:
            LooperError: The entry cannot be loaded.
        """
        loop = asyncio.get_running_loop()
        if tenant != PREFETCHES or digest not in self._owners:
            self._owners[digest] = tenant
        self._active_until[tenant] = loop.time() + ACTIVE_S
        if digest in self._entries:
            self._entries.move_to_end(digest)
            return self._entries[digest]
        if cached := self._errors.get(digest):
            expires, error = cached
            if loop.time() < expires:
                self._owners.pop(digest, None)
                raise error.with_traceback(None)
            del self._errors[digest]
        task = self._loading.get(digest)
        if task is None:
            # In a context of its own: Ray cancels all that a request has begun when its client goes away, and others
            # may wait for this entry by then.
            task = asyncio.create_task(self._load_entry(digest), context=Context())
            # Retrieve the exception even if nobody waits: asyncio would log it otherwise.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._loading[digest] = task
        elif tenant != PREFETCHES:
            self.claim(digest, tenant)
        self._callers[digest] += 1
        try:
            # A caller that is canceled does not cancel the task for the others.
            return await asyncio.shield(task)
        finally:
            self._callers[digest] -= 1
            if not self._callers[digest]:
                del self._callers[digest]
                if self._loading.get(digest) is task and digest not in self._has_place:
                    del self._loading[digest]
                    task.cancel()

    @asynccontextmanager
    async def pin(self, digest: str, tenant: str = "") -> AsyncIterator[T]:
        """Load an entry if necessary, and do not evict it inside the context.

        Args:
            digest: Digest of the entry.
            tenant: Tenant that the entry is for, or ``PREFETCHES``.

        Yields:
            The entry.

        Raises:
            LooperError: The entry cannot be loaded.
        """
        self._pins[digest] += 1
        try:
            yield await self.get(digest, tenant)
        finally:
            self._pins[digest] -= 1
            if not self._pins[digest]:
                del self._pins[digest]
                self._give_places()

    async def _load_entry(self, digest: str) -> T:
        try:
            async with self._prerequisite(digest, self._owners[digest]):
                tenant, victim = await self._take_place(digest)
                try:
                    if victim is not None:
                        await self._evict(*victim)
                    entry = await self._load(digest)
                    self._entries[digest] = entry
                finally:
                    self._has_place.discard(digest)
                    self._loads[tenant] -= 1
        except PERMANENT_ERRORS as error:
            self._errors[digest] = (asyncio.get_running_loop().time() + self._cache_errors_s, error)
            raise
        finally:
            if self._loading.get(digest) is asyncio.current_task():
                del self._loading[digest]
            if digest not in self._entries and digest not in self._loading:
                self._owners.pop(digest, None)
            self._give_places()
        return entry

    async def _take_place(self, digest: str) -> tuple[str, tuple[str, T] | None]:
        """Wait for a place. Return the tenant that it counts for, and the entry that must be evicted first, if any.

        Until then, this task can be canceled.
        """
        tenant = self._owners[digest]
        waiter = _Waiter(digest, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(tenant, deque()).append(waiter)
        self._give_places()
        try:
            taken: tuple[str, tuple[str, T] | None] = await waiter.place
        except asyncio.CancelledError:
            self._stop_waiting(waiter)
            raise
        return taken

    def _give_places(self) -> None:
        """Give places to waiting entries, one tenant after another, until nobody can take one."""
        while any(map(self._give_place, list(self._waiting))):
            pass

    def _give_place(self, tenant: str) -> bool:
        """Give a place to the tenant's next entry, if it may take one. Return whether it did."""
        if tenant == PREFETCHES and len(self._waiting) > 1:
            return False
        waiter = self._waiting[tenant][0]
        if waiter.place.done():
            self._stop_waiting(waiter)  # it was canceled
            return True
        if not self._may_load_more(tenant) or not self._may_keep_more(tenant):
            return False
        victim = None
        if len(self._entries) + self._loads.total() >= self._capacity:
            if (chosen := self._choose_victim(tenant)) is None:
                return False
            # Removed first: it may be requested again while it is being evicted.
            victim = (chosen, self._entries.pop(chosen))
            del self._owners[chosen]
            self.evictions += 1
        self._waiting[tenant].popleft()
        if self._waiting[tenant]:
            self._waiting.move_to_end(tenant)
        else:
            del self._waiting[tenant]
        self._loads[tenant] += 1
        self._has_place.add(waiter.digest)
        waiter.place.set_result((tenant, victim))
        return True

    def _may_load_more(self, tenant: str) -> bool:
        """Tell whether another entry of a tenant may be loaded now, so that loads are left for others."""
        if self._max_loads is None:
            return True
        most = self._max_loads // 2 if tenant == PREFETCHES else self._max_loads - 1
        return self._loads.total() < self._max_loads and self._loads[tenant] < most

    def _may_keep_more(self, tenant: str) -> bool:
        """Tell whether a tenant leaves at least one place to others if another entry of it is pinned."""
        kept = sum(
            self._owners[digest] == tenant
            for digest in self._pins
            if digest in self._entries or digest in self._has_place
        )
        return self._capacity < MIN_SHARED_CAPACITY or kept < self._capacity - 1

    def _choose_victim(self, tenant: str) -> str | None:
        """Choose the entry that is evicted for a tenant: the least recently used one, as far as that is fair."""
        now = asyncio.get_running_loop().time()
        self._active_until = {active: until for active, until in self._active_until.items() if until > now}
        oldest = next(self._evictable(), None)
        if oldest is None or self._owners[oldest] not in self._active_until:
            return oldest
        places = self._loads + Counter(map(self._owners.__getitem__, self._entries))
        share = self._capacity / len(self._active_until.keys() | {tenant})
        if places[tenant] + 1 > share:
            own = next((digest for digest in self._evictable() if self._owners[digest] == tenant), None)
            if own is not None:
                return own
        return next((digest for digest in self._evictable() if places[self._owners[digest]] > share), oldest)

    def _evictable(self) -> Iterator[str]:
        """Iterate over the entries that may be evicted, least recently used first, only as far as necessary."""
        return (digest for digest in self._entries if not self._is_kept(digest))

    def _stop_waiting(self, waiter: "_Waiter") -> None:
        for tenant, queue in list(self._waiting.items()):
            if waiter in queue:
                queue.remove(waiter)
                if not queue:
                    del self._waiting[tenant]

    def _is_kept(self, digest: str) -> bool:
        if digest in self._pins:
            return True
        held_until = self._held_until.get(digest)
        return held_until is not None and held_until > asyncio.get_running_loop().time()


@dataclass(eq=False)
class _Waiter:
    """An entry that waits for a place."""

    digest: str
    place: asyncio.Future[Any]
