"""Reads request bodies up to a limit, and parses JSON in a worker thread. Used by the routes of ``/api/v1``."""

from typing import Any

import orjson
from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from looper.platform.domain.errors import InvalidInput, TooLarge

MAX_JSON_BYTES = 256 * 2**10
"""Maximum size of a JSON body, in bytes. That is room for the names of thousands of instances."""


async def read_body(request: Request, max_bytes: int, too_large_message: str) -> bytes:
    """Read the whole body of a request.

    Args:
        request: The request; nothing of its body has been read yet.
        max_bytes: Maximum size of the body, in bytes.
        too_large_message: Message of the error if the body is larger.

    Returns:
        The body.

    Raises:
        TooLarge: More than ``max_bytes`` arrived. The rest is not read.
    """
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > max_bytes:
            raise TooLarge(too_large_message)
    return bytes(content)


class JsonRequest(Request):
    """A request whose JSON body has been read and parsed already, so that FastAPI does neither."""

    _content: bytes
    _value: Any

    @classmethod
    async def from_request(cls, request: Request) -> "JsonRequest":
        """Read and parse the body of a request.

        Args:
            request: The request; nothing of its body has been read yet.

        Returns:
            The same request with its parsed body.

        Raises:
            TooLarge: The body has more than ``MAX_JSON_BYTES``.
            InvalidInput: The body is not JSON.
        """
        content = await read_body(request, MAX_JSON_BYTES, f"the request is larger than {MAX_JSON_BYTES // 2**10} KiB")
        parsed = cls(request.scope, request.receive)
        parsed._content = content
        try:
            # In a thread, because the event loop is shared with every stream of tokens.
            parsed._value = await run_in_threadpool(orjson.loads, content) if content else None
        except orjson.JSONDecodeError as error:
            raise InvalidInput(f"the request is not JSON: {error}") from error
        return parsed

    async def body(self) -> bytes:
        """Return the body as it was sent."""
        return self._content

    async def json(self) -> Any:
        """Return the parsed body, None if it is empty."""
        return self._value
