"""At Ray Serve's HTTP proxy, before any gateway: its own words for a gateway that died become an error to try again.

Ray imports ``middlewares`` in the proxy's process (``environment``).
"""

import logging

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from looper.serve.protocol import error

log = logging.getLogger(__name__)


class ProxyErrorMiddleware:
    """Replaces failures that are not JSON, which the gateway's own are, and speaks where Ray raises or says nothing."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        replaced = started = False

        async def say(message: Message) -> None:
            nonlocal replaced, started
            if message["type"] == "http.response.start":
                started = True
                kind = dict(message.get("headers", ())).get(b"content-type", b"")
                replaced = message["status"] >= 500 and not kind.startswith(b"application/json")
                if replaced:
                    await self._say_gone(send)
            if not replaced:
                await send(message)

        try:
            await self._app(scope, receive, say)
        except Exception:
            if started or scope["type"] != "http":
                raise
            log.exception("a gateway failed before it said anything")
        if not started and scope["type"] == "http":
            await self._say_gone(send)

    @staticmethod
    async def _say_gone(send: Send) -> None:
        gone = error(503, "the gateway that was to answer died: ask again", code="gateway_gone")
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(gone.body)).encode()),
            (b"retry-after", b"1"),
        ]
        await send({"type": "http.response.start", "status": gone.status, "headers": headers})
        await send({"type": "http.response.body", "body": gone.body})


def middlewares() -> list[Middleware]:
    return [Middleware(ProxyErrorMiddleware)]
