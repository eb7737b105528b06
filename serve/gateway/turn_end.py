"""Tells the proxy that a request has left the gateway for the engines, so that the next one of its key may go in.

``deployment/proxy_turns`` lets requests in by turns. A request of ``/v1`` that is with the engines takes no time of the
proxy and the gateway until its response begins, which may be minutes later. ASGI lets a server and an application agree
on messages of their own by ``scope["extensions"]``; without the extension, nothing is sent.
"""

from starlette.types import ASGIApp, Receive, Scope, Send

TURN_END = "looper.turn.end"
"""The extension, and the type of its message."""


class TurnEndMiddleware:
    """Gives an application ``request.state.end_turn``, a function to call once the request is left to the engines.

    Args:
        app: The application.
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

        async def end_turn() -> None:
            if TURN_END in (scope.get("extensions") or {}):
                await send({"type": TURN_END})

        scope.setdefault("state", {})["end_turn"] = end_turn
        await self._app(scope, receive, send)
