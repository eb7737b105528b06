"""Routes that look at the key before the body, and read no more of a body than they are meant to.

FastAPI by itself reads and parses the whole body of a request first, on the event loop that all others share, and only
then asks for what a route depends on.
"""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute

from looper.platform.domain.errors import InvalidInput, TooLarge

MAX_JSON = 256 * 2**10
"""Bytes of one JSON body: thousands of instances' names."""


def key_first(find_tenant: Callable[[Request], Awaitable[str]]) -> type[APIRoute]:
    """A class of routes whose requests carry the tenant, as ``state.tenant``, before anything of the body is read.

    ``find_tenant`` raises Unauthorised if there is none.
    """

    class KeyFirst(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def handle_known(request: Request) -> Response:
                request.state.tenant = await find_tenant(request)
                return await handle(await _Parsed.read(request) if self.body_field else request)

            return handle_known

    return KeyFirst


async def read_body(request: Request, limit: int, advice: str) -> bytes:
    """All of it. Raises TooLarge with ``advice`` as soon as more than ``limit`` bytes have come."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > limit:
            raise TooLarge(advice)
    return bytes(content)


class _Parsed(Request):
    """A request with the JSON of its body, where FastAPI finds it."""

    _content: bytes
    _value: Any

    @classmethod
    async def read(cls, request: Request) -> "_Parsed":
        content = await read_body(request, MAX_JSON, f"the request is larger than {MAX_JSON // 2**10} KiB")
        parsed = cls(request.scope, request.receive)
        parsed._content = content
        try:
            parsed._value = await run_in_threadpool(orjson.loads, content) if content else None
        except orjson.JSONDecodeError as reason:
            raise InvalidInput(f"the request is not JSON: {reason}") from reason
        return parsed

    async def body(self) -> bytes:
        return self._content

    async def json(self) -> Any:
        return self._value
