"""A shelf: a bounded place for things that are named by their digest, brought when they are asked for.

The pager is two of them, local disk and the memory of the engine's workers. Pure asyncio: what the things are, and how
they are brought and dropped, is not known here.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Generic, TypeVar

from looper.platform.domain.errors import CorruptAdapter, InvalidInput, LooperError, NotFound

T = TypeVar("T")

LASTING = (NotFound, CorruptAdapter, InvalidInput)
"""Failures that a new try at once would only repeat."""


class PinnedLRUCache(Generic[T]):
    """At most ``capacity`` things, the least recently used making room for new ones.

    ``bring`` makes what a digest names, ``drop`` puts it away. Where every thing is pinned, a new one waits for the
    first to be let go.
    """

    def __init__(
        self,
        bring: Callable[[str], Awaitable[T]],
        drop: Callable[[str, T], Awaitable[None]],
        capacity: int,
        *,
        needs: Callable[[str], AbstractAsyncContextManager[object]] = nullcontext,
        remember_failures_s: float = 10.0,
    ) -> None:
        """A thing takes its place inside of what it ``needs``: what waits for that takes none from what is there."""
        self._bring = bring
        self._drop = drop
        self._capacity = capacity
        self._needs = needs
        self._remember_failures_s = remember_failures_s
        self._resident: OrderedDict[str, T] = OrderedDict()  # least recently used first
        self._pins: Counter[str] = Counter()
        self._coming: dict[str, asyncio.Task[T]] = {}
        self._admitted = 0  # of those coming, how many have their place
        self._failed: dict[str, tuple[float, LooperError]] = {}
        self._held: dict[str, float] = {}  # until when a thing keeps its place, though nobody uses it
        self.evicted = 0
        self._room = asyncio.Event()

    def __contains__(self, digest: object) -> bool:
        return digest in self._resident

    def hold(self, digest: str, seconds: float) -> None:
        """Keep the thing, once it is there, for so long; it makes room for no other meanwhile.

        At most half of the places are held: who is asked for always finds one.
        """
        now = asyncio.get_running_loop().time()
        self._held = {held: until for held, until in self._held.items() if until > now}
        if digest in self._held or len(self._held) < self._capacity // 2:
            self._held[digest] = now + seconds

    async def ensure(self, digest: str) -> T:
        """Bring the thing unless it is there; return it. Only a pin keeps it in place.

        However many ask, it is brought once. Raises what bringing raised; NotFound, CorruptAdapter and InvalidInput are
        remembered for a while, so that a broken adapter in demand does not hammer the store.
        """
        if digest in self._resident:
            self._resident.move_to_end(digest)
            return self._resident[digest]
        if failure := self._failed.get(digest):
            until, error = failure
            if asyncio.get_running_loop().time() < until:
                raise error.with_traceback(None)
            del self._failed[digest]
        task = self._coming.get(digest)
        if task is None:
            task = asyncio.create_task(self._place(digest))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen, even if nobody waits
            self._coming[digest] = task
        # One who gives up waiting does not take it from the others.
        return await asyncio.shield(task)

    @asynccontextmanager
    async def pin(self, digest: str) -> AsyncIterator[T]:
        """``ensure``, and keep the thing in place inside the ``with``."""
        self._pins[digest] += 1
        try:
            yield await self.ensure(digest)
        finally:
            self._pins[digest] -= 1
            if not self._pins[digest]:
                del self._pins[digest]
                self._room.set()

    async def _place(self, digest: str) -> T:
        try:
            async with self._needs(digest):
                await self._make_room()
                self._admitted += 1
                try:
                    thing = await self._bring(digest)
                    self._resident[digest] = thing
                finally:
                    self._admitted -= 1
                    self._room.set()
        except LASTING as error:
            self._failed[digest] = (asyncio.get_running_loop().time() + self._remember_failures_s, error)
            raise
        finally:
            del self._coming[digest]
        return thing

    async def _make_room(self) -> None:
        while len(self._resident) + self._admitted >= self._capacity:
            victim = next((digest for digest in self._resident if not self._keeps(digest)), None)
            if victim is None:
                self._room.clear()
                await self._room.wait()
                continue
            self.evicted += 1
            # It may be asked for again while it is being dropped.
            await self._drop(victim, self._resident.pop(victim))

    def _keeps(self, digest: str) -> bool:
        return digest in self._pins or self._held.get(digest, 0) > asyncio.get_running_loop().time()
