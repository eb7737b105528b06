"""Remembers the requests at which engines died, so that one request does not kill engine after engine.

``engine_client`` asks it about every request. Who runs in an engine when it dies is a *suspect*. Most suspects are
innocent, and nobody can tell which: a batch dies as a whole. So when a client sends a suspect again, it takes its turn:
one suspect at a time is let to the engines until each has generated its first token. An engine that dies during a turn
convicts the request whose turn it was. A response that is complete clears it of suspicion.

Each gateway remembers what it saw itself. Nothing is hashed or looked up while no engine has died.
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import orjson

from looper.serve.error_responses import engine_gone, engine_killer
from looper.serve.protocol import EngineRequest, EngineUnavailable

REFUSED_FOR_S = 600.0
"""Time for which a convicted request is refused, and for which a suspect is remembered, in seconds."""

MAX_DEATHS = 3
"""A request that ran in so many engines when they died, and never to its end, is convicted without a turn too."""

MAX_TURN_WAIT_S = 30.0
"""Maximum time that a suspect waits for its turn, in seconds."""

MAX_SUSPECTS = 4096
"""Number of suspects that are remembered. The oldest are forgotten first."""


@dataclass
class Suspect:
    """What is known of one request, that is: of one tenant's requests with the same body."""

    deaths: int = 0
    """Number of times that engines died while they ran it."""
    is_convicted: bool = False
    """Whether it is refused."""
    died_at_s: float = 0.0
    """Time of the last death, by the monotonic clock."""


class CrashTrial:
    """One request on its way through the engines. ``CrashSuspects.watch`` creates it."""

    def __init__(self, suspects: "CrashSuspects", request: EngineRequest, end_turn: Callable[[], None] | None) -> None:
        """Begin.

        Args:
            suspects: What is remembered.
            request: The request.
            end_turn: Ends the request's turn. None if it is no suspect.
        """
        self._suspects = suspects
        self._request = request
        self._end_turn = end_turn
        self._started_s = time.monotonic()

    def end_turn(self) -> None:
        """End the turn of a suspect: the engine has survived the beginning, or the request has ended."""
        if self._end_turn:
            self._end_turn()
        self._end_turn = None

    def record_death(self) -> None:
        """Record that an engine died while it ran the request."""
        self._suspects.record_death(self._request, self._started_s, had_turn=self._end_turn is not None)
        self.end_turn()

    def record_end(self) -> None:
        """Record that the response is complete. It clears the request of suspicion."""
        self._suspects.clear(self._request)
        self.end_turn()


class CrashSuspects:
    """The suspects of one gateway."""

    def __init__(self) -> None:
        self._suspects: OrderedDict[bytes, Suspect] = OrderedDict()  # by digest of tenant and body, oldest death first
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def watch(self, request: EngineRequest) -> AsyncIterator[CrashTrial]:
        """Let a request to the engines. A suspect waits for its turn first.

        Args:
            request: The request.

        Yields:
            Takes down what happens to it.

        Raises:
            EngineUnavailable: The request is refused because engines died at it, or its turn does not come.
        """
        if not self._find(request):
            yield CrashTrial(self, request, None)
            return
        try:
            await asyncio.wait_for(self._turn.acquire(), MAX_TURN_WAIT_S)
        except TimeoutError:
            raise EngineUnavailable(engine_gone(1.0)) from None
        trial = CrashTrial(self, request, self._turn.release)
        try:
            suspect = self._find(request)  # again, because the same request may have had a turn meanwhile
            if suspect and suspect.is_convicted:
                raise EngineUnavailable(engine_killer(suspect.died_at_s + REFUSED_FOR_S - time.monotonic()))
            if not suspect:
                trial.end_turn()
            yield trial
        finally:
            trial.end_turn()

    def record_death(self, request: EngineRequest, started_s: float, *, had_turn: bool) -> None:
        """Record that an engine died while it ran a request.

        Equal requests that ran beside each other count once: they are likely to have died with the same engine.

        Args:
            request: The request.
            started_s: When it came in, by the monotonic clock.
            had_turn: Whether it was the only suspect in the engines.
        """
        key = _digest(request)
        suspect = self._suspects.setdefault(key, Suspect())
        suspect.deaths += started_s >= suspect.died_at_s
        suspect.died_at_s = time.monotonic()
        suspect.is_convicted |= had_turn or suspect.deaths >= MAX_DEATHS
        self._suspects.move_to_end(key)
        if len(self._suspects) > MAX_SUSPECTS:
            self._suspects.popitem(last=False)

    def clear(self, request: EngineRequest) -> None:
        """Forget a request, because an engine has run it to its end.

        Args:
            request: The request.
        """
        if self._suspects:
            self._suspects.pop(_digest(request), None)

    def _find(self, request: EngineRequest) -> Suspect | None:
        expired_s = time.monotonic() - REFUSED_FOR_S
        while self._suspects and next(iter(self._suspects.values())).died_at_s < expired_s:
            self._suspects.popitem(last=False)
        return self._suspects.get(_digest(request)) if self._suspects else None


def _digest(request: EngineRequest) -> bytes:
    body = {name: value for name, value in request.body.items() if name != "request_id"}
    content = orjson.dumps([request.tenant_hash, request.endpoint, body], default=str, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(content).digest()
