"""Middleware of Ray Serve's HTTP proxy: when a gateway dies, the client gets an error in OpenAI's form to retry.

Ray imports ``proxy_middlewares`` in the proxy's process, because ``ray_environment`` names it.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from looper.serve.deployment.proxy_bodies import BodyLimitMiddleware, send_response
from looper.serve.deployment.proxy_connections import bound_connections
from looper.serve.deployment.proxy_turns import RequestTurnMiddleware
from looper.serve.error_responses import gateway_gone, to_last_events
from looper.serve.routing.known_replicas import GATEWAY_NAME, count_replicas

MAX_START_WAIT_S = 5.0
"""How long a request waits for a gateway to run, in seconds. Then its client is told to try again."""

START_POLL_INTERVAL_S = 0.1
"""How often a request that waits looks whether a gateway runs, in seconds."""

log = logging.getLogger(__name__)


class ProxyErrorMiddleware:
    """Replaces the proxy's own errors with ``gateway_gone``.

    A status of 404, or of 500 or above, whose body is not JSON comes from the proxy, since the gateway's errors are
    JSON. The proxy says 404 for every path while no gateway is deployed yet. The middleware also responds if the proxy
    raises or sends nothing, and if no gateway runs: the proxy would wait for one without a limit of time. A stream that
    the proxy leaves without an end gets the error as its last event.

    Args:
        app: The proxy's application.
        max_start_wait_s: Maximum time that a request waits for a gateway to run, in seconds.
    """

    def __init__(self, app: ASGIApp, max_start_wait_s: float = MAX_START_WAIT_S) -> None:
        self._app = app
        self._max_start_wait_s = max_start_wait_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, as ASGI defines it.

        Args:
            scope: What is known about the connection.
            receive: Receives messages of the client.
            send: Sends messages to the client.
        """
        is_replaced = has_started = has_ended = is_stream = False

        async def send_or_replace(message: Message) -> None:
            nonlocal is_replaced, has_started, has_ended, is_stream
            if message["type"] == "http.response.start":
                has_started = True
                content_type = dict(message.get("headers", ())).get(b"content-type", b"")
                is_stream = content_type.startswith(b"text/event-stream")
                is_failure = message["status"] == 404 or message["status"] >= 500
                is_replaced = is_failure and not content_type.startswith(b"application/json")
                if is_replaced:
                    await send_response(send, gateway_gone())
                message = {**message, "headers": _keep_first_request_id(message.get("headers", ()))}
            else:
                has_ended = not message.get("more_body", False)
            if not is_replaced:
                await send(message)

        try:
            if scope["type"] != "http" or count_replicas(GATEWAY_NAME):
                await self._app(scope, receive, send_or_replace)
            else:
                await self._run_if_a_gateway_starts(self._app(scope, receive, send_or_replace), lambda: has_started)
        except Exception:
            if scope["type"] != "http" or (has_started and not is_stream):
                raise
            log.exception("a gateway failed before it had responded")
        if scope["type"] == "http" and not has_started:
            await send_response(send, gateway_gone())
        elif is_stream and not has_ended:
            # A message of a gateway has whole events.
            await send({"type": "http.response.body", "body": to_last_events(gateway_gone()).encode()})

    async def _run_if_a_gateway_starts(self, response: Awaitable[None], has_started: Callable[[], bool]) -> None:
        """Await ``response``, but give it up if it has not started and still no gateway runs after some time."""
        task = asyncio.ensure_future(response)
        gives_up_at = time.monotonic() + self._max_start_wait_s
        try:
            while not task.done():
                if has_started() or count_replicas(GATEWAY_NAME):
                    await task
                    return
                left_s = gives_up_at - time.monotonic()
                if left_s <= 0:
                    return
                await asyncio.wait({task}, timeout=min(left_s, START_POLL_INTERVAL_S))
            await task
        finally:
            task.cancel()


def _keep_first_request_id(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the headers with the gateway's request id alone. The proxy adds another, which no log of ours has."""
    ids = [header for header in headers if header[0].lower() == b"x-request-id"]
    return [*(header for header in headers if header[0].lower() != b"x-request-id"), *ids[:1]]


def proxy_middlewares() -> list[Middleware]:
    """Return the middlewares that Ray Serve adds to its HTTP proxy, and bound the connections of that proxy.

    Ray calls this before it starts the proxy's server, and offers no other place in that process.
    """
    bound_connections()
    # The body's limits are inside, so that an application that fails because of a refusal adds nothing to it.
    return [Middleware(ProxyErrorMiddleware), Middleware(RequestTurnMiddleware), Middleware(BodyLimitMiddleware)]
