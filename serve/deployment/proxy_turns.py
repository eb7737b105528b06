"""Middleware of Ray Serve's HTTP proxy: lets in only so many new requests of one API key at once.

A proxy and a gateway are one event loop each, which takes up what is ready in the order of arrival. With 64 connections
that each send the next request as soon as the last one was refused, another client's request would wait for 64 others
in every step on its way. So the next request of a key goes in when an earlier one of that key has been answered, or is
with an engine (``gateway/turn_end``): then it waits no longer for an event loop.
"""

import asyncio
from weakref import WeakValueDictionary

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from looper.serve.gateway.turn_end import TURN_END

MAX_TURNS = 2
"""Number of new requests of a key that are inside at once. The second one is on its way while the first is read."""

MAX_TURN_S = 1.0
"""Time after which a request counts as new no longer, in seconds: its client may send a long body slowly."""


class RequestTurnMiddleware:
    """Lets the requests of each API key in by turns. Requests without a key are counted by the client's address.

    Args:
        app: The proxy's application.
        max_turns: Number of new requests of a key that are inside at once.
        max_turn_s: Time after which a request counts as new no longer, in seconds.
    """

    def __init__(self, app: ASGIApp, max_turns: int = MAX_TURNS, max_turn_s: float = MAX_TURN_S) -> None:
        self._app = app
        self._max_turns = max_turns
        self._max_turn_s = max_turn_s
        # Those of keys without requests are forgotten.
        self._turns: WeakValueDictionary[object, asyncio.Semaphore] = WeakValueDictionary()

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
        key = next((value for name, value in scope["headers"] if name == b"authorization"), None)
        key = key or (scope.get("client") or [None])[0]
        turns = self._turns.setdefault(key, asyncio.Semaphore(self._max_turns))
        await turns.acquire()
        has_turn = True

        def end_turn() -> None:
            nonlocal has_turn
            if has_turn:
                has_turn = False
                turns.release()

        async def send_and_end_turn(message: Message) -> None:
            end_turn()
            if message["type"] != TURN_END:
                await send(message)

        timer = asyncio.get_running_loop().call_later(self._max_turn_s, end_turn)
        scope = {**scope, "extensions": {**(scope.get("extensions") or {}), TURN_END: {}}}
        try:
            await self._app(scope, receive, send_and_end_turn)
        finally:
            timer.cancel()
            end_turn()
