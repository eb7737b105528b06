"""Turns for work that only so many may do at once, given out fairly: each tenant gets the next turn in rotation.

``engine/grammars`` uses it, and ``gateway/completion_handler``. Pure asyncio.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from looper.platform.domain.errors import Overloaded

RETRY_AFTER_S = 1.0
"""When a client whose tenant has too many callers waiting may try again, in seconds."""


class FairTurns:
    """Gives turns to callers. With several waiting, tenants alternate, whatever number of callers each has."""

    def __init__(self, purpose: str, *, concurrent: int, max_waiting: int) -> None:
        """Create turns that nobody waits for.

        Args:
            purpose: What the turns are for, for error messages.
            concurrent: Number of callers that have a turn at once.
            max_waiting: Maximum number of callers of one tenant that wait.
        """
        self._purpose = purpose
        self._free = concurrent
        self._max_waiting = max_waiting
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()  # next tenant first; no empty ones

    @asynccontextmanager
    async def turn(self, tenant: str) -> AsyncIterator[None]:
        """Wait for a turn, and have it while the context is open.

        Args:
            tenant: Tenant of the caller.

        Yields:
            Nothing.

        Raises:
            Overloaded: Too many callers of this tenant wait.
        """
        await self._take(tenant)
        try:
            yield
        finally:
            self._give_back()

    async def _take(self, tenant: str) -> None:
        if self._free:
            self._free -= 1
            return
        queue = self._waiting.setdefault(tenant, deque())
        if len(queue) >= self._max_waiting:
            raise Overloaded(
                f"{len(queue)} of your requests wait for {self._purpose}, which is the maximum: try again later",
                retry_after_s=RETRY_AFTER_S,
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_back()  # it came in the moment of the cancellation
            else:
                self._forget(tenant, turn)
            raise

    def _give_back(self) -> None:
        """Give the turn to the next tenant, and put that tenant last."""
        while self._waiting:
            tenant, queue = next(iter(self._waiting.items()))
            turn = queue.popleft()
            if queue:
                self._waiting.move_to_end(tenant)
            else:
                del self._waiting[tenant]
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def _forget(self, tenant: str, turn: asyncio.Future[None]) -> None:
        queue = self._waiting.get(tenant, deque())
        if turn in queue:
            queue.remove(turn)
            if not queue:
                del self._waiting[tenant]
