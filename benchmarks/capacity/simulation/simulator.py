"""A discrete-event simulation of engines behind Looper's router, to predict subject a cluster would answer.

An engine runs in steps, as vLLM does: each step generates one token for each request whose prompt has been read, and
reads as much of the other prompts as the limit of tokens per step allows. The duration of a step is linear in its
content (``EngineCosts``). Adapters are loaded into host memory as the adapter cache loads them, and the least recently
used one is evicted. Requests are admitted by Looper's rule for one tenant: fairness between tenants changes which
request is next, but not how many there are. ``predict`` calls ``simulate``.
"""

import heapq
import itertools
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from looper.benchmarks.capacity.load.clients import RequestResult
from looper.benchmarks.capacity.load.workload import WorkloadRequest
from looper.serve.engine.admission import ADAPTER_AFFINITY_BONUS
from looper.serve.routing.placement import Placement


class EngineCosts(BaseModel):
    """Time costs of an engine, in seconds, measured by ``calibrate``. The names are those of ``simulation.json``."""

    model_config = ConfigDict(frozen=True)

    step: float
    """Fixed cost of a step that has at least one adapter."""
    sequence: float
    """Cost of each sequence for which the step generates a token."""
    prompt_token: float
    """Cost of each prompt token that the step reads."""
    adapter: float
    """Cost of each different adapter of the step."""
    request: float
    """Time of a request's way from the client to the engine and back."""
    load: float
    """Time to load an adapter from the object store."""
    reload: float
    """Time to load an adapter from the disk."""


class Cluster(BaseModel):
    """Size of a cluster. The names are those of ``simulation.json``."""

    model_config = ConfigDict(frozen=True)

    replicas: int = 1
    """Number of engines, each on its own machine."""
    seats: int
    """Maximum number of running sequences of an engine (vLLM's ``max_num_seqs``)."""
    slots: int
    """Maximum number of different adapters in a batch (vLLM's ``max_loras``)."""
    in_memory: int
    """Maximum number of adapters in an engine's host memory."""
    on_disk: int
    """Maximum number of adapters on an engine's disk."""
    step_tokens: int
    """Maximum number of tokens that a step reads and generates."""
    line: int
    """Maximum number of requests per engine. More are rejected, as the gateway rejects those of one tenant."""


@dataclass(eq=False)
class _SimulatedRequest:
    result: RequestResult
    unread_tokens: int
    """Prompt tokens that have not been read."""
    remaining_tokens: int
    """Answer tokens that have not been generated."""
    ready_s: float = 0.0
    """Time at which the adapter is in host memory."""


class _LruSet:
    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._members: OrderedDict[int, None] = OrderedDict()

    def touch(self, adapter: int) -> bool:
        """Add an adapter, or mark it as used; return whether it was a member."""
        was_member = adapter in self._members
        self._members[adapter] = None
        self._members.move_to_end(adapter)
        if len(self._members) > self._capacity:
            self._members.popitem(last=False)
        return was_member


@dataclass(eq=False)
class _SimulatedEngine:
    cluster: Cluster
    costs: EngineCosts
    waiting: list[_SimulatedRequest] = field(default_factory=list)
    reading: list[_SimulatedRequest] = field(default_factory=list)
    generating: list[_SimulatedRequest] = field(default_factory=list)
    adapters: Counter[int] = field(default_factory=Counter)
    is_busy: bool = False
    loader_free_s: float = 0.0

    def __post_init__(self) -> None:
        self._memory, self._disk = _LruSet(self.cluster.in_memory), _LruSet(self.cluster.on_disk)

    @property
    def load(self) -> int:
        return len(self.waiting) + len(self.reading) + len(self.generating)

    def submit(self, request: WorkloadRequest, now: float) -> _SimulatedRequest:
        """Queue a request, and load its adapter if it is not in host memory."""
        submitted = _SimulatedRequest(
            RequestResult(request), request.prompt_tokens, request.output_tokens, now + self.costs.request / 2
        )
        if request.adapter is not None and not self._memory.touch(request.adapter):
            # One thread loads adapters, so a load that is in progress delays the next one.
            seconds = self.costs.reload if self._disk.touch(request.adapter) else self.costs.load
            self.loader_free_s = max(self.loader_free_s, now) + seconds
            submitted.ready_s = self.loader_free_s + self.costs.request / 2
        self.waiting.append(submitted)
        return submitted

    def prewarm(self, adapter: int) -> None:
        """Put an adapter into host memory and on the disk, as an earlier request does."""
        self._memory.touch(adapter)
        self._disk.touch(adapter)

    def start_step(self, now: float) -> float | None:
        """Admit waiting requests and start a step; return when it ends, or None if there is nothing to do."""
        while len(self.reading) + len(self.generating) < self.cluster.seats and (request := self._pick_next(now)):
            self.waiting.remove(request)
            if request.result.request.adapter is not None:
                self.adapters[request.result.request.adapter] += 1
            self.reading.append(request)
        if not self.reading and not self.generating:
            return None
        budget = remaining = self.cluster.step_tokens - len(self.generating)
        for request in self.reading:
            tokens = min(request.unread_tokens, remaining)
            request.unread_tokens -= tokens
            remaining -= tokens
        costs = self.costs
        return (
            now
            + costs.step
            + costs.adapter * len(self.adapters)
            + costs.sequence * len(self.generating)
            + costs.prompt_token * (budget - remaining)
        )

    def _pick_next(self, now: float) -> _SimulatedRequest | None:
        """Return the request that the engine's ``AdmissionQueue`` would admit next, if any."""
        chosen, longest_wait = None, -1.0
        for request in self.waiting:
            adapter = request.result.request.adapter
            is_active = adapter in self.adapters
            if request.ready_s > now or not (adapter is None or is_active or len(self.adapters) < self.cluster.slots):
                continue
            waited = (now - request.result.request.arrival_s) * (ADAPTER_AFFINITY_BONUS if is_active else 1)
            if waited > longest_wait:
                chosen, longest_wait = request, waited
        return chosen

    def finish_step(self, now: float) -> None:
        """Give one token to each request whose prompt has been read, and remove those that are complete."""
        unfinished = []
        for request in (*self.generating, *(request for request in self.reading if not request.unread_tokens)):
            result = request.result
            result.token_times_s.append(now + self.costs.request / 2)
            request.remaining_tokens -= 1
            if request.remaining_tokens:
                unfinished.append(request)
                continue
            result.finished_s = result.token_times_s[-1]
            adapter = result.request.adapter
            if adapter is not None:
                self.adapters[adapter] -= 1
                if not self.adapters[adapter]:
                    del self.adapters[adapter]
        self.generating = unfinished
        self.reading = [request for request in self.reading if request.unread_tokens]


def simulate(
    requests: Sequence[WorkloadRequest],
    cluster: Cluster,
    costs: EngineCosts,
    *,
    timeout_s: float,
    prewarmed: Iterable[int] = (),
) -> list[RequestResult]:
    """Predict the results that ``send_load`` would return for a cluster.

    Args:
        requests: The load.
        cluster: Size of the cluster.
        costs: Time costs of an engine.
        timeout_s: Seconds since the start of the load at which the simulation ends.
        prewarmed: Adapters that were requested before, in this order.

    Returns:
        One result per request that arrived in time, in the order of arrival.
    """
    engines = {str(number): _SimulatedEngine(cluster, costs) for number in range(cluster.replicas)}
    placement = Placement(engines)
    for engine in engines.values():
        for adapter in prewarmed:
            engine.prewarm(adapter)
    order = itertools.count()
    # Each event has a time and a subject: a request that arrives, or an engine that ends a step or wakes up.
    events: list[tuple[float, int, WorkloadRequest | str]] = [
        (request.arrival_s, next(order), request) for request in requests
    ]
    heapq.heapify(events)
    results: list[RequestResult] = []

    def start_next_step(name: str, now: float) -> None:
        engine = engines[name]
        step_end = engine.start_step(now)
        engine.is_busy = step_end is not None
        if step_end is not None:
            heapq.heappush(events, (step_end, next(order), name))
        elif engine.waiting:
            ready_s = min(request.ready_s for request in engine.waiting)
            if ready_s > now:
                heapq.heappush(events, (ready_s, next(order), f"wake {name}"))

    while events and events[0][0] <= timeout_s:
        now, _, subject = heapq.heappop(events)
        if isinstance(subject, WorkloadRequest):
            total_load = sum(engine.load for engine in engines.values())
            if total_load >= cluster.line * cluster.replicas:
                results.append(RequestResult(subject, error="rejected"))
                continue
            digest = "" if subject.adapter is None else str(subject.adapter)
            mean_load = total_load / cluster.replicas
            name = placement.select(digest, lambda name: engines[name].load, mean_load, cluster.seats)[0]
            results.append(engines[name].submit(subject, now).result)
            heapq.heappush(events, (engines[name].waiting[-1].ready_s, next(order), f"wake {name}"))
        elif subject.startswith("wake "):
            name = subject.removeprefix("wake ")
            if not engines[name].is_busy:
                start_next_step(name, now)
        else:
            engines[subject].finish_step(now)
            start_next_step(subject, now)
    return results
