"""Sends objects of the object store as the bodies of responses, a piece at a time and within bounds."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import anyio
import anyio.to_thread
from fastapi import Response
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from looper.platform.api.concurrency_limits import ConcurrencyLimits
from looper.platform.api.request_body import GRACE_S, MIN_BYTES_PER_S
from looper.platform.objectstore import ObjectStore

MAX_DOWNLOADS_PER_TENANT = 4
"""Maximum downloads of one tenant at the same time."""

MAX_DOWNLOADS = 16
"""Maximum downloads of all tenants at the same time. It bounds the memory that they take."""

PIECE_BYTES = 4 * 2**20
"""How much of an object is in memory for each download, in bytes."""


class Downloads:
    """The downloads of one gateway.

    Args:
        store: Object store that is read.
        threads: Threads that wait for it.
    """

    def __init__(self, store: ObjectStore, threads: anyio.CapacityLimiter) -> None:
        self._store = store
        self._threads = threads
        self._running = ConcurrencyLimits("downloads")

    def respond(self, tenant: str, key: str) -> Response:
        """Return the response whose body is an object. It blocks while the size of the object is read.

        Args:
            tenant: Tenant whose place the download takes.
            key: Key of the object.

        Returns:
            The response. A client that reads slower than bodies may be sent gets a body that is cut off.

        Raises:
            NotFound: There is no such object.
        """
        return _ObjectResponse(self, tenant, key, self._store.size(key))

    async def read(self, tenant: str, key: str, size: int) -> AsyncGenerator[bytes, None]:
        """Read an object.

        Args:
            tenant: Tenant whose place the download takes.
            key: Key of the object.
            size: Its size, in bytes.

        Yields:
            The pieces of the object.

        Raises:
            RateLimited: The tenant has the maximum number of downloads. So it is before the first piece.
            Overloaded: All tenants together have.
        """
        with self._running.acquire(tenant, MAX_DOWNLOADS_PER_TENANT, MAX_DOWNLOADS):
            for start in range(0, size, PIECE_BYTES):
                end = min(start + PIECE_BYTES, size)
                yield await anyio.to_thread.run_sync(self._store.get_range, key, start, end, limiter=self._threads)


class _ObjectResponse(Response):
    """The response of ``Downloads.respond``."""

    def __init__(self, downloads: Downloads, tenant: str, key: str, size: int) -> None:
        super().__init__(headers={"content-length": str(size)}, media_type="application/octet-stream")
        self._downloads = downloads
        self._object = (tenant, key, size)
        self._size = size

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A client that stops to read loses its place. It sees that the body is cut off.
        async with aclosing(self._downloads.read(*self._object)) as pieces:
            with anyio.move_on_after(GRACE_S + self._size / MIN_BYTES_PER_S):
                await self._send(pieces, send)

    async def _send(self, pieces: AsyncIterator[bytes], send: Send) -> None:
        piece = await anext(pieces, b"")  # before the head, so that what fails here has a status of its own
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        while piece:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            piece = await anext(pieces, b"")
        await send({"type": "http.response.body", "body": b""})
