"""How long a request may take, counted from its arrival at the gateway. Used by ``completion_handler``.

Reading the body, the catalog, loading the adapter and waiting for admission all count. Two times end a request: the one
that its client allows until an engine begins with it (``MAX_WAIT_HEADER``), and ``serve.request_timeout_s`` until its
last byte.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf

from fastapi import Request

from looper.platform.domain.errors import Overloaded
from looper.serve.error_responses import RequestRefused, error_response, looper_error_response, request_timed_out

MAX_WAIT_HEADER = "x-looper-within-s"
"""Request header: refuse the request with 503 if its response would begin later than in this many seconds."""


class RequestDeadline:
    """The two deadlines of one request.

    Args:
        arrived_at: When the request arrived, in seconds of ``time.perf_counter``.
        max_wait_s: Maximum time until an engine begins with the request, in seconds. None: no limit.
        timeout_s: Maximum time until the response is complete, in seconds.
    """

    def __init__(self, arrived_at: float, max_wait_s: float | None, timeout_s: float) -> None:
        self._arrived_at = arrived_at
        self._max_wait_s = max_wait_s
        self._timeout_s = timeout_s
        self._timeout: asyncio.Timeout | None = None
        self._has_begun = False

    @property
    def remaining_wait_s(self) -> float | None:
        """Seconds that are left until an engine must begin with the request. None: no limit."""
        return None if self._max_wait_s is None else self._max_wait_s - self._elapsed_s

    @property
    def remaining_s(self) -> float:
        """Seconds that are left until the response must be complete."""
        return self._timeout_s - self._elapsed_s

    @property
    def _elapsed_s(self) -> float:
        return time.perf_counter() - self._arrived_at

    @asynccontextmanager
    async def enforced(self) -> AsyncIterator[None]:
        """Cut what happens inside the context at the next deadline.

        Yields:
            Nothing.

        Raises:
            RequestRefused: A deadline has passed.
        """
        remaining_wait_s = inf if self._has_begun else self.remaining_wait_s
        remaining_s = self.remaining_s if remaining_wait_s is None else min(self.remaining_s, remaining_wait_s)
        try:
            async with asyncio.timeout(remaining_s) as self._timeout:
                yield
        except TimeoutError:
            if self._timeout is None or not self._timeout.expired():
                raise  # it is not this timeout's
            if self._has_begun or self._max_wait_s is None or self.remaining_s <= 0:
                raise RequestRefused(request_timed_out(self._timeout_s)) from None
            message = f"no engine has begun with the request within {self._max_wait_s:g} s: try again later"
            raise RequestRefused(looper_error_response(Overloaded(message, retry_after_s=1))) from None

    def begin(self) -> None:
        """An engine begins with the request. From now on, only the time until the response is complete counts."""
        self._has_begun = True
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(asyncio.get_running_loop().time() + self.remaining_s)


def parse_max_wait(request: Request) -> float | None:
    """Return the value of ``MAX_WAIT_HEADER``.

    Args:
        request: The request.

    Returns:
        Seconds, None without the header.

    Raises:
        RequestRefused: The value is not a positive number.
    """
    value = request.headers.get(MAX_WAIT_HEADER)
    if value is None:
        return None
    try:
        max_wait_s = float(value)
    except ValueError:
        max_wait_s = 0
    if not 0 < max_wait_s < inf:
        message = f"{MAX_WAIT_HEADER} is {value[:64]!r}: give a number of seconds above 0"
        raise RequestRefused(error_response(400, message, param=MAX_WAIT_HEADER))
    return max_wait_s
