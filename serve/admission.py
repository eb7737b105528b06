"""Who is next on an engine: fair between tenants, and never more adapters at once than the engine has slots for.

Fair by virtual token counters (Sheng et al., 2024, arXiv 2401.00588): each tenant's counter grows by the tokens that
it was served, and the tenant with the smallest is next; one that comes back after a pause starts where the least served
of the others is, so that nobody saves up. Distinct adapters beyond its slots, the engine would serve in turns, everyone
at half the speed; they wait here instead. In a long queue, requests of one adapter are served together, as far as
that is fair to who has waited longer; who finds no slot is passed over only for a while, then the least busy adapter's
is emptied for it.

Requests that came together end together, and a tenant whose turn it is would wait until they do. So the engine has a
little more room than is filled, for who has less than its share of the seats.

A seat is for one sequence. A request of several (``n``, several prompts) begins when there are enough seats for all of
them. Until then nobody else is seated, but for the spare seats, or single sequences would take each seat as it falls
free. Its tenant pays for the seats that stay empty meanwhile.

Pure asyncio: what is served is not known here.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from looper.platform.domain.errors import Overloaded

COMPANY = 3.0
"""A wait counts so many times if the adapter is being served already: fewer adapters at once are faster for all."""

SPARE = 2
"""Seats and slots that an engine has besides, for tenants that have less than their share of the seats."""

AHEAD, IN_TURN = -1, 0
"""Priorities in the engine, the least first. What says none, as the steps of a beam search, has vLLM's default, 0."""

WEIGHT_OF_OUTPUT = 2.0
"""Of a token that is generated, against one that is read: the paper's."""


@dataclass(eq=False)
class Turn:
    """One request, waiting or being served."""

    tenant: str
    digest: str | None
    """Its adapter, None for the base model."""
    tokens: int
    """About how many it has to read."""
    seats: int
    """As many as the sequences that are generated for it."""
    since: float
    """When it came; once it is served, when that began."""
    begins: asyncio.Future[None]
    ahead: bool = False
    """When its turn came, another tenant had more seats than its own was to have: the engine reads its prompt first."""


class Admission:
    """The queue before one engine, which serves ``seats`` sequences of ``slots`` different adapters at once.

    The engine has room for ``spare`` more of both.
    """

    def __init__(
        self, seats: int, slots: int, *, spare: int = SPARE, queue: int = 4096, patience_s: float = 1.0
    ) -> None:
        """At most ``queue`` requests wait. One whose adapter has no slot is passed over for ``patience_s``."""
        self._seats = seats
        self._slots = slots
        self._spare = spare
        self._queue = queue
        self._patience_s = patience_s
        self._waiting: dict[str, deque[Turn]] = {}  # of each tenant that has any
        self._seated: Counter[str] = Counter()  # of each tenant
        self._adapters: Counter[str] = Counter()  # requests being served with each
        self._served: dict[str, float] = {}  # tokens, of each tenant that was ever here
        self._closing: str | None = None  # an adapter that nobody new is served with: its slot is wanted
        self._gathering: Turn | None = None  # whose turn it is, but too few seats are free
        self._meanwhile: set[Turn] = set()  # seated since it gathers
        self._lasts_s = 0.0  # being served, of late

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    @property
    def serving(self) -> int:
        """Seats that are taken."""
        return self._seated.total()

    @property
    def _wanted(self) -> int:
        """Seats that are waited for."""
        return sum(turn.seats for line in self._waiting.values() for turn in line)

    @property
    def slots_taken(self) -> float:
        """The share of the slots that requests are served with."""
        return min(1.0, len(self._adapters) / self._slots)

    def report(self) -> dict[str, float]:
        """What ``scaling`` goes by."""
        wanted = {turn.digest for line in self._waiting.values() for turn in line if turn.digest}
        return {
            "asked": self._wanted + self.serving,
            "adapters": len(wanted | self._adapters.keys()),
            "seats": self._seats,
            "slots": self._slots,
        }

    def expected_wait_s(self) -> float:
        """Until one that comes now is served, as far as can be told: as if all lasted as long as they did of late."""
        before = self._wanted + self.serving - self._seats + 1
        return max(0, before) * self._lasts_s / self._seats

    @asynccontextmanager
    async def turn(
        self, tenant: str, digest: str | None, tokens: int, *, seats: int = 1, within_s: float | None = None
    ) -> AsyncIterator[Turn]:
        """Inside, the engine has so many seats for this request, and a slot for its adapter.

        It may ask for as many seats as the engine has without the spare ones.

        Raises Overloaded at once if too many wait, or if its turn would not come ``within_s``.
        """
        assert 1 <= seats <= self._seats
        wait_s = self.expected_wait_s()
        if self.waiting >= self._queue:
            raise Overloaded(f"{self.waiting} requests wait for this base model already", retry_after_s=wait_s)
        if within_s is not None and wait_s > within_s:
            reason = f"it would take {wait_s:.1f} s until the answer begins, and the request gives it {within_s:g}"
            raise Overloaded(reason, retry_after_s=wait_s - within_s)
        loop = asyncio.get_running_loop()
        turn = Turn(tenant, digest, tokens, seats, loop.time(), loop.create_future())
        self._greet(tenant)
        self._waiting.setdefault(tenant, deque()).append(turn)
        try:
            self._admit(loop.time())
            await turn.begins
            yield turn
        finally:
            self._leave(turn, loop.time())

    def generated(self, turn: Turn, tokens: int) -> None:
        """So many more, for this request."""
        self._served[turn.tenant] += WEIGHT_OF_OUTPUT * tokens
        if self._gathering and (empty := self._seats - self.serving) > 0:
            self._served[self._gathering.tenant] += WEIGHT_OF_OUTPUT * tokens * empty / self.serving

    def _greet(self, tenant: str) -> None:
        """One that has no request here starts at the least served of those that have."""
        here = self._waiting.keys() | self._seated.keys()
        if tenant not in here:
            least = min((self._served[other] for other in here), default=0.0)
            self._served[tenant] = max(self._served.get(tenant, 0.0), least)

    def _leave(self, turn: Turn, now: float) -> None:
        if turn in self._waiting.get(turn.tenant, ()):
            self._dequeue(turn)
        else:
            self._lasts_s += (now - turn.since - self._lasts_s) * (0.1 if self._lasts_s else 1)
            self._meanwhile.discard(turn)
            _less(self._seated, turn.tenant, turn.seats)
            if turn.digest is not None:
                _less(self._adapters, turn.digest)
                if turn.digest == self._closing and turn.digest not in self._adapters:
                    self._closing = None
        self._admit(now)

    def _admit(self, now: float) -> None:
        """Give every free seat to the next in line."""
        while turn := self._next(now):
            self._dequeue(turn)
            if self._gathering:
                self._meanwhile.add(turn)
            self._seated[turn.tenant] += turn.seats
            if turn.digest is not None:
                self._adapters[turn.digest] += 1
            self._served[turn.tenant] += turn.tokens
            turn.since = now
            if not turn.begins.done():  # cancelled in this very moment: it leaves its seat at once
                turn.begins.set_result(None)

    def _next(self, now: float) -> Turn | None:
        """The least served tenant's that has waited longest. Sees to it that there will be a slot for who has none."""
        if (turn := self._gathering) and self._fits(turn, spare=len(self._meanwhile)):
            return turn
        here = len(self._waiting.keys() | self._seated.keys())
        for tenant in sorted(self._waiting, key=self._served.__getitem__):
            has_less = here > 1 and self._seated[tenant] * here < self._seats
            spare = self._spare if has_less else 0
            if self.serving >= self._seats + spare or (self._gathering and len(self._meanwhile) >= spare):
                continue
            chosen, most, passed_over = None, -1.0, 0.0
            for turn in self._waiting[tenant]:
                if self._gathering and turn.seats > 1:
                    continue
                waited = now - turn.since
                if not self._has_slot(turn.digest, self._slots + spare):
                    passed_over = max(passed_over, waited)
                    continue
                waited *= COMPANY if turn.digest in self._adapters else 1
                if waited > most:
                    chosen, most = turn, waited
            if self._closing is None and passed_over > max(self._patience_s, most):
                self._closing = min(self._adapters, key=self._adapters.__getitem__)
            if chosen and not self._fits(chosen, spare):
                self._gathering = chosen
                return self._next(now)
            if chosen:
                chosen.ahead = has_less and self._seated[tenant] + chosen.seats < max(self._seated.values(), default=0)
                return chosen
        return None

    def _fits(self, turn: Turn, spare: int) -> bool:
        """Whether there are seats and a slot for it, with so many spare ones of both."""
        return self.serving + turn.seats <= self._seats + spare and self._has_slot(turn.digest, self._slots + spare)

    def _has_slot(self, digest: str | None, slots: int) -> bool:
        if digest is None:
            return True
        if digest in self._adapters:
            return digest != self._closing
        return len(self._adapters) < slots

    def _dequeue(self, turn: Turn) -> None:
        if turn is self._gathering:
            self._gathering = None
            self._meanwhile.clear()
        self._waiting[turn.tenant].remove(turn)
        if not self._waiting[turn.tenant]:
            del self._waiting[turn.tenant]


def _less(counter: Counter[str], key: str, by: int = 1) -> None:
    counter[key] -= by
    if not counter[key]:
        del counter[key]
