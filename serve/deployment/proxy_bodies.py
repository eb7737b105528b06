"""Middleware of Ray Serve's HTTP proxy: bounds the size of request bodies, and the time that they may take.

The proxy takes in a body as fast as the client sends it, however slowly the gateway reads it, and keeps all of it in
memory. It waits for the rest of a body without a limit of time. Both happen before the gateway sees anything.
"""

import asyncio
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from looper.serve.error_responses import body_too_large, body_too_slow, too_many_bodies
from looper.serve.protocol import FullResponse

MAX_BODY_BYTES: Mapping[str, int] = {"/v1/": 2 * 2**20, "/api/v1/instances/": 256 * 2**20}
"""Maximum size of a body by the beginning of the path, in bytes. Gateways have the same limits, and smaller ones."""

MAX_OTHER_BODY_BYTES = 2**20
"""Maximum size of a body at any other path, in bytes."""

MAX_TOTAL_BYTES = 2**30
"""Maximum size of all bodies together that the proxy holds, in bytes. A body is held until its request has ended."""

MAX_PAUSE_S = 20.0
"""Maximum time between two parts of a body, in seconds."""

MIN_BYTES_PER_S = 16 * 2**10
"""Minimum rate at which a body arrives, in bytes per second, after the first ``MAX_PAUSE_S`` seconds."""


class BodyLimitMiddleware:
    """Refuses bodies that are too large or too slow.

    Args:
        app: The proxy's application.
        max_pause_s: Maximum time between two parts of a body, in seconds.
        max_total_bytes: Maximum size of all bodies together, in bytes.
    """

    def __init__(self, app: ASGIApp, max_pause_s: float = MAX_PAUSE_S, max_total_bytes: int = MAX_TOTAL_BYTES) -> None:
        self._app = app
        self._max_pause_s = max_pause_s
        self._max_total_bytes = max_total_bytes
        self._total_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, as ASGI defines it.

        Args:
            scope: What is known about the connection.
            receive: Receives messages of the client.
            send: Sends messages to the client.
        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        max_bytes = next(
            (limit for prefix, limit in MAX_BODY_BYTES.items() if scope["path"].startswith(prefix)),
            MAX_OTHER_BODY_BYTES,
        )
        declared = dict(scope["headers"]).get(b"content-length", b"")
        if declared.isdigit() and int(declared) > max_bytes:
            await send_response(send, body_too_large(max_bytes), close=True)
            return
        loop = asyncio.get_running_loop()
        started_s, body_bytes = loop.time(), 0
        is_complete = has_started = is_refused = False

        async def receive_bounded() -> Message:
            nonlocal body_bytes, is_complete
            if is_complete:
                return await receive()
            if is_refused:
                return {"type": "http.disconnect"}
            slack_s = self._max_pause_s + body_bytes / MIN_BYTES_PER_S - (loop.time() - started_s)
            try:
                message = await asyncio.wait_for(receive(), min(self._max_pause_s, max(0.0, slack_s)))
            except TimeoutError:
                return await refuse(body_too_slow())
            size = len(message.get("body", b""))
            body_bytes += size
            self._total_bytes += size
            is_complete = not message.get("more_body", False)
            if body_bytes > max_bytes:
                return await refuse(body_too_large(max_bytes))
            if self._total_bytes > self._max_total_bytes:
                return await refuse(too_many_bodies())
            return message

        async def refuse(response: FullResponse) -> Message:
            """Respond, unless the application has begun to, and tell it that the client has gone."""
            nonlocal is_refused
            is_refused = True
            if not has_started:
                await send_response(send, response, close=True)
            return {"type": "http.disconnect"}

        async def send_unless_refused(message: Message) -> None:
            nonlocal has_started
            if not is_refused or has_started:
                has_started = True
                await send(message)

        try:
            await self._app(scope, receive_bounded, send_unless_refused)
        finally:
            self._total_bytes -= body_bytes


async def send_response(send: Send, response: FullResponse, *, close: bool = False) -> None:
    """Send a full response.

    Args:
        send: Sends messages to the client.
        response: The response.
        close: Whether the connection is closed afterwards, because there may be more of the body on it.
    """
    headers = {"content-type": "application/json", "content-length": str(len(response.body)), **response.headers}
    if close:
        headers["connection"] = "close"
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": response.status, "headers": encoded})
    await send({"type": "http.response.body", "body": response.body})
