"""Reads request bodies within bounds of size and time, and parses JSON in a worker thread.

The routes of ``/api/v1`` and of ``/v1`` read every body here. A body has a maximum size and a minimum speed, and takes
part of the memory that all bodies of its tenant, and all bodies together, may take at the same time.
"""

import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.to_thread
import orjson
from fastapi import Request

from looper.platform.domain.errors import InvalidInput, Overloaded, RateLimited, TooLarge, TooSlow

MAX_JSON_BYTES = 256 * 2**10
"""Maximum size of a JSON body of ``/api/v1``, in bytes. That is room for the names of thousands of instances."""

MAX_PAUSE_S = 15.0
"""Maximum time between two parts of a body, in seconds."""

GRACE_S = 30.0
"""Time that any body may take, in seconds, however small it is. After it, ``MIN_BYTES_PER_S`` counts."""

MIN_BYTES_PER_S = 16 * 2**10
"""Minimum average speed of a body that takes longer than ``GRACE_S``, in bytes per second."""

MAX_BODIES_PER_TENANT = 256
"""Maximum number of bodies of one tenant that are read at the same time."""

MAX_BODIES = 2048
"""Maximum number of bodies of all tenants that are read at the same time."""

MAX_BYTES_PER_TENANT = 128 * 2**20
"""Maximum memory of all bodies of one tenant that are read at the same time, in bytes."""

MAX_BYTES = 512 * 2**20
"""Maximum memory of the bodies of all tenants that are read at the same time, in bytes."""


async def read_body(request: Request, max_bytes: int, too_large_message: str) -> bytes:
    """Read the whole body of a request.

    Args:
        request: The request of an authenticated tenant; nothing of its body has been read yet.
        max_bytes: Maximum size of the body, in bytes.
        too_large_message: Message of the error if the body is larger.

    Returns:
        The body.

    Raises:
        TooLarge: The body has more than ``max_bytes``. What is beyond them is not read.
        TooSlow: The body arrives too slowly.
        RateLimited: The tenant sends too many or too large bodies at the same time.
        Overloaded: All tenants together do.
    """
    content = bytearray()
    with _memory.track(request.state.account) as reserve:
        async for chunk in stream_body(request, max_bytes, too_large_message):
            reserve(len(chunk))
            content += chunk
    return bytes(content)


async def stream_body(request: Request, max_bytes: int, too_large_message: str) -> AsyncIterator[bytes]:
    """Read the body of a request part by part.

    Args:
        request: The request; nothing of its body has been read yet.
        max_bytes: Maximum size of the body, in bytes.
        too_large_message: Message of the error if the body is larger.

    Yields:
        The parts of the body.

    Raises:
        TooLarge: The body has more than ``max_bytes``. What is beyond them is not read.
        TooSlow: The body arrives too slowly.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise TooLarge(too_large_message)
    size, started_at = 0, time.monotonic()
    parts = request.stream()
    while True:
        left_s = started_at + GRACE_S + size / MIN_BYTES_PER_S - time.monotonic()
        try:
            with anyio.fail_after(max(0.0, min(MAX_PAUSE_S, left_s))):
                part = await anext(parts, None)
        except TimeoutError as error:
            raise TooSlow(
                f"the request's body arrived too slowly: send at least {MIN_BYTES_PER_S // 2**10} KiB per second, "
                f"without pauses of more than {MAX_PAUSE_S:.0f} s"
            ) from error
        if part is None:
            return
        size += len(part)
        if size > max_bytes:
            raise TooLarge(too_large_message)
        yield part


class _BodyMemory:
    """Counts the bodies that are being read, and their bytes, for each account. Used on one event loop."""

    def __init__(self) -> None:
        self._bodies = Counter[str]()
        self._bytes = Counter[str]()

    @contextmanager
    def track(self, account: str) -> Iterator[Any]:
        """Count a body of an account while the context is open. Yields a function that counts more bytes of it."""
        self._check(account, self._bodies, MAX_BODIES_PER_TENANT - 1, MAX_BODIES - 1)
        self._bodies[account] += 1
        reserved = 0

        def reserve(size: int) -> None:
            nonlocal reserved
            self._check(account, self._bytes, MAX_BYTES_PER_TENANT - size, MAX_BYTES - size)
            self._bytes[account] += size
            reserved += size

        try:
            yield reserve
        finally:
            self._bytes[account] -= reserved
            self._bodies[account] -= 1
            if not self._bodies[account]:
                del self._bodies[account], self._bytes[account]

    def _check(self, account: str, used: Counter[str], max_of_tenant: int, max_of_all: int) -> None:
        if used[account] > max_of_tenant:
            raise RateLimited(
                f"{account} sends too many bodies at the same time: wait until one has arrived", retry_after_s=1
            )
        if used.total() > max_of_all:
            raise Overloaded("the server reads too many bodies at the same time: try again", retry_after_s=1)


_memory = _BodyMemory()


class JsonRequest(Request):
    """A request whose JSON body has been read and parsed already, so that FastAPI does neither."""

    _content: bytes
    _value: Any

    @classmethod
    async def from_request(cls, request: Request, threads: anyio.CapacityLimiter | None) -> "JsonRequest":
        """Read and parse the body of a request.

        Args:
            request: The request; nothing of its body has been read yet.
            threads: Threads that parse it; None for the application's default ones.

        Returns:
            The same request with its parsed body.

        Raises:
            TooLarge: The body has more than ``MAX_JSON_BYTES``.
            TooSlow: The body arrives too slowly.
            InvalidInput: The body is not JSON.
        """
        content = await read_body(request, MAX_JSON_BYTES, f"the request is larger than {MAX_JSON_BYTES // 2**10} KiB")
        parsed = cls(request.scope, request.receive)
        parsed._content = content
        try:
            # In a thread, because the event loop is shared with every stream of tokens.
            parsed._value = await anyio.to_thread.run_sync(orjson.loads, content, limiter=threads) if content else None
        except orjson.JSONDecodeError as error:
            raise InvalidInput(f"the request is not JSON: {error}") from error
        return parsed

    async def body(self) -> bytes:
        """Return the body as it was sent."""
        return self._content

    async def json(self) -> Any:
        """Return the parsed body, None if it is empty."""
        return self._value
