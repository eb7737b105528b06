"""Answers a request whose proxy was lost before the gateway had its whole body.

Ray Serve's proxy on one node may hand a request to the gateway on another, which then fetches the body from the proxy.
If the node of the proxy dies, or is cut off for so long that Ray gives it up, Ray raises ``RayActorError`` there.
"""

from ray.exceptions import RayActorError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from looper.platform.domain.errors import Overloaded

RETRY_AFTER_S = 1.0
"""Time after which a client may send the request again, in seconds. Another node has its connection then."""


class LostProxyMiddleware:
    """Turns the loss of a proxy into an error that tells the client to send the request again.

    Args:
        app: The application, which reports a ``LooperError`` as a response.
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

        async def receive_from_proxy() -> Message:
            try:
                return await receive()
            except RayActorError as error:
                message = "the node that this connection ends at was lost: send the request again"
                raise Overloaded(message, retry_after_s=RETRY_AFTER_S) from error

        await self._app(scope, receive_from_proxy, send)
