"""A discrete-event model of engines behind Looper's router: what a cluster that is not there would answer.

An engine works in steps, as vLLM does: each step generates one token for each request whose prompt has been read, and
reads of the other prompts what its bound on tokens leaves. How long a step lasts is linear in what it holds
(``Costs``); adapters are brought to the engine's memory as the pager brings them, the least recently used making room.
Whose turn it is goes by Looper's rule for one tenant: fairness between tenants changes whose turn it is, not how many
turns there are.
"""

import heapq
import itertools
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from looper.benchmarks.capacity.load.clients import Answered
from looper.benchmarks.capacity.load.workload import WorkloadRequest
from looper.serve.engine.admission import COMPANY
from looper.serve.routing.placement import place


class Costs(BaseModel):
    """What an engine takes, in seconds: measured by ``calibrate``."""

    model_config = ConfigDict(frozen=True)

    step: float
    """Of any step that has an adapter in it."""
    sequence: float
    """More, for each sequence that is generated for."""
    prompt_token: float
    """More, for each token of a prompt that is read."""
    adapter: float
    """More, for each different adapter."""
    request: float
    """From the client to the engine and back, around a request's first token."""
    load: float
    """To bring an adapter from the store."""
    reload: float
    """To bring one from the disk."""


class Cluster(BaseModel):
    """What is there to serve."""

    model_config = ConfigDict(frozen=True)

    replicas: int = 1
    """Engines, on a machine each."""
    seats: int
    slots: int
    in_memory: int
    on_disk: int
    step_tokens: int
    """That a step reads and generates at most."""
    line: int
    """Requests that are here at most for each engine; more are refused, as a gateway does to a tenant."""


@dataclass(eq=False)
class _SimulatedRequest:
    answered: Answered
    unread: int
    """Tokens of its prompt."""
    left: int
    """Tokens of its answer."""
    ready_s: float = 0.0
    """When its adapter is in the engine's memory."""


class _Lru:
    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._there: OrderedDict[int, None] = OrderedDict()

    def touch(self, adapter: int) -> bool:
        """Whether it was there; it is from now on."""
        there = adapter in self._there
        self._there[adapter] = None
        self._there.move_to_end(adapter)
        if len(self._there) > self._capacity:
            self._there.popitem(last=False)
        return there


@dataclass(eq=False)
class _SimulatedEngine:
    cluster: Cluster
    costs: Costs
    waiting: list[_SimulatedRequest] = field(default_factory=list)
    reading: list[_SimulatedRequest] = field(default_factory=list)
    generating: list[_SimulatedRequest] = field(default_factory=list)
    adapters: Counter[int] = field(default_factory=Counter)
    busy: bool = False
    loader_free_s: float = 0.0

    def __post_init__(self) -> None:
        self._memory, self._disk = _Lru(self.cluster.in_memory), _Lru(self.cluster.on_disk)

    @property
    def load(self) -> int:
        return len(self.waiting) + len(self.reading) + len(self.generating)

    def take(self, asked: WorkloadRequest, now: float) -> _SimulatedRequest:
        request = _SimulatedRequest(Answered(asked), asked.prompt, asked.answer, now + self.costs.request / 2)
        if asked.adapter is not None and not self._memory.touch(asked.adapter):
            # One thread reads adapters; what is on its way delays the next.
            seconds = self.costs.reload if self._disk.touch(asked.adapter) else self.costs.load
            self.loader_free_s = max(self.loader_free_s, now) + seconds
            request.ready_s = self.loader_free_s + self.costs.request / 2
        self.waiting.append(request)
        return request

    def know(self, adapter: int) -> None:
        """It was asked for before."""
        self._memory.touch(adapter)
        self._disk.touch(adapter)

    def begin(self, now: float) -> float | None:
        """Admit whom there is room for, and read; return when the step ends, None if there is nothing to do."""
        while len(self.reading) + len(self.generating) < self.cluster.seats and (request := self._next(now)):
            self.waiting.remove(request)
            if request.answered.asked.adapter is not None:
                self.adapters[request.answered.asked.adapter] += 1
            self.reading.append(request)
        if not self.reading and not self.generating:
            return None
        room = left = self.cluster.step_tokens - len(self.generating)
        for request in self.reading:
            reads = min(request.unread, left)
            request.unread -= reads
            left -= reads
        costs = self.costs
        return (
            now
            + costs.step
            + costs.adapter * len(self.adapters)
            + costs.sequence * len(self.generating)
            + costs.prompt_token * (room - left)
        )

    def _next(self, now: float) -> _SimulatedRequest | None:
        """As ``Admission`` chooses."""
        chosen, most = None, -1.0
        for request in self.waiting:
            adapter = request.answered.asked.adapter
            there = adapter in self.adapters
            if request.ready_s > now or not (adapter is None or there or len(self.adapters) < self.cluster.slots):
                continue
            waited = (now - request.answered.asked.at_s) * (COMPANY if there else 1)
            if waited > most:
                chosen, most = request, waited
        return chosen

    def end(self, now: float) -> None:
        """Everyone whose prompt has been read has one token more."""
        going = []
        for request in (*self.generating, *(each for each in self.reading if not each.unread)):
            answered = request.answered
            answered.tokens_s.append(now + self.costs.request / 2)
            request.left -= 1
            if request.left:
                going.append(request)
                continue
            answered.done_s = answered.tokens_s[-1]
            adapter = answered.asked.adapter
            if adapter is not None:
                self.adapters[adapter] -= 1
                if not self.adapters[adapter]:
                    del self.adapters[adapter]
        self.generating, self.reading = going, [each for each in self.reading if each.unread]


def simulate(
    asked: Sequence[WorkloadRequest], cluster: Cluster, costs: Costs, *, within_s: float, known: Iterable[int] = ()
) -> list[Answered]:
    """What ``cluster`` answers to ``asked`` until ``within_s``, as ``drive`` would have seen it.

    All engines have been asked for ``known`` adapters before, in that order.
    """
    engines = {str(number): _SimulatedEngine(cluster, costs) for number in range(cluster.replicas)}
    for engine in engines.values():
        for adapter in known:
            engine.know(adapter)
    order = itertools.count()
    # A moment and what happens then: a request comes, or an engine may have something to do.
    events: list[tuple[float, int, WorkloadRequest | str]] = [(each.at_s, next(order), each) for each in asked]
    heapq.heapify(events)
    answers: list[Answered] = []

    def go_on(name: str, now: float) -> None:
        engine = engines[name]
        ends = engine.begin(now)
        engine.busy = ends is not None
        if ends is not None:
            heapq.heappush(events, (ends, next(order), name))
        elif engine.waiting:
            ready = min(request.ready_s for request in engine.waiting)
            if ready > now:
                heapq.heappush(events, (ready, next(order), f"wake {name}"))

    while events and events[0][0] <= within_s:
        now, _, what = heapq.heappop(events)
        if isinstance(what, WorkloadRequest):
            if sum(engine.load for engine in engines.values()) >= cluster.line * cluster.replicas:
                answers.append(Answered(what, failure="refused"))
                continue
            digest = "" if what.adapter is None else str(what.adapter)
            name = place(digest, {name: engine.load for name, engine in engines.items()}, cluster.seats)[0]
            answers.append(engines[name].take(what, now).answered)
            heapq.heappush(events, (engines[name].waiting[-1].ready_s, next(order), f"wake {name}"))
        elif what.startswith("wake "):
            name = what.removeprefix("wake ")
            if not engines[name].busy:
                go_on(name, now)
        else:
            engines[what].end(now)
            go_on(what, now)
    return answers
