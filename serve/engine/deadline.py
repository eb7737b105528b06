"""The time that a request has before its response must begin. ``SkillServer.generate`` counts it from the arrival."""

import asyncio
import time
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TypeVar

from looper.platform.domain.errors import Overloaded

T = TypeVar("T")

RETRY_AFTER_S = 1.0
"""When a client whose request ran out of time may try again, in seconds."""


class Deadline:
    """A point in time by which a response must begin."""

    def __init__(self, max_wait_s: float | None) -> None:
        """Start the clock.

        Args:
            max_wait_s: Time from now, in seconds. None: no limit.
        """
        self._max_wait_s = max_wait_s
        self._started_s = time.monotonic()

    @property
    def remaining_s(self) -> float | None:
        """Time that is left, in seconds, at least 0. None: no limit."""
        if self._max_wait_s is None:
            return None
        return max(0.0, self._started_s + self._max_wait_s - time.monotonic())

    async def enter(self, stack: AsyncExitStack, context: AbstractAsyncContextManager[T], purpose: str) -> T:
        """Enter a context before the deadline.

        Args:
            stack: The stack that leaves the context.
            context: The context, such as one that waits for an adapter.
            purpose: What it waits for, for the error message.

        Returns:
            What the context yields.

        Raises:
            Overloaded: The deadline passed first.
        """
        try:
            async with asyncio.timeout(self.remaining_s):
                return await stack.enter_async_context(context)
        except TimeoutError as error:
            raise Overloaded(
                f"{purpose} takes longer than the {self._max_wait_s:g} s that the request allows: try again later, or "
                "allow more time",
                retry_after_s=RETRY_AFTER_S,
            ) from error
