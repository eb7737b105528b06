"""Middleware of Ray Serve's HTTP proxy: when a gateway dies, the client gets an error in OpenAI's form to retry.

Ray imports ``proxy_middlewares`` in the proxy's process, because ``ray_environment`` names it.
"""

import logging
from collections.abc import Iterable

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from looper.serve.deployment.proxy_bodies import BodyLimitMiddleware, send_response
from looper.serve.error_responses import gateway_gone

log = logging.getLogger(__name__)


class ProxyErrorMiddleware:
    """Replaces the proxy's own errors with ``gateway_gone``.

    A status of 404, or of 500 or above, whose body is not JSON comes from the proxy, since the gateway's errors are
    JSON. The proxy says 404 for every path while no gateway is deployed yet. The middleware also responds if the proxy
    raises or sends nothing.

    Args:
        app: The proxy's application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, as ASGI defines it.

        Args:
            scope: What is known about the connection.
            receive: Receives messages of the client.
            send: Sends messages to the client.
        """
        is_replaced = has_started = False

        async def send_or_replace(message: Message) -> None:
            nonlocal is_replaced, has_started
            if message["type"] == "http.response.start":
                has_started = True
                content_type = dict(message.get("headers", ())).get(b"content-type", b"")
                is_failure = message["status"] == 404 or message["status"] >= 500
                is_replaced = is_failure and not content_type.startswith(b"application/json")
                if is_replaced:
                    await send_response(send, gateway_gone())
                message = {**message, "headers": _keep_first_request_id(message.get("headers", ()))}
            if not is_replaced:
                await send(message)

        try:
            await self._app(scope, receive, send_or_replace)
        except Exception:
            if has_started or scope["type"] != "http":
                raise
            log.exception("a gateway failed before it responded")
        if not has_started and scope["type"] == "http":
            await send_response(send, gateway_gone())


def _keep_first_request_id(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the headers with the gateway's request id alone. The proxy adds another, which no log of ours has."""
    all_headers, is_id = list(headers), lambda header: header[0].lower() == b"x-request-id"
    first = next(filter(is_id, all_headers), None)
    return [header for header in all_headers if header is first or not is_id(header)]


def proxy_middlewares() -> list[Middleware]:
    """Return the middlewares that Ray Serve adds to its HTTP proxy."""
    # The body's limits are inside, so that an application that fails because of a refusal adds nothing to it.
    return [Middleware(ProxyErrorMiddleware), Middleware(BodyLimitMiddleware)]
