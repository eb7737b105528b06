"""The admission queue of one engine: which request runs next, and with how many adapters at once.

``SkillServer.generate`` enters every request here before it gives the request to vLLM. The queue knows nothing of vLLM:
it is pure asyncio.

**Fairness between tenants.** Virtual token counters (Sheng et al., 2024, arXiv 2401.00588): each tenant's counter grows
by the tokens that it is served, and the tenant with the smallest counter is next. The counter of a tenant that comes
back after a pause is raised to the smallest counter of the active tenants, so that nobody saves up credit.

**Adapters.** With more adapters than slots, an engine would serve them in turns, all at half the speed. Requests for
more adapters wait here instead. In a long queue, requests for the same adapter are run together, as far as that is fair
to requests that have waited longer. A request that finds no slot is skipped for a limited time. Then the slot of the
least busy adapter is drained for it.

**Headroom.** Requests that arrived together end together, and a tenant whose turn it is would wait until they do. So
the engine has ``HEADROOM`` more sequences and slots than are filled, for tenants with less than their share.

**Several sequences.** A request can need several sequences (``n``, or several prompts). It is admitted when there is
room for all of them. Until then, only the headroom is given to other requests, because single sequences would take up
each place that becomes free. The request's tenant pays for the places that stay empty meanwhile.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from looper.platform.domain.errors import Overloaded

ADAPTER_AFFINITY_BONUS = 3.0
"""Factor on the waiting time of a request whose adapter is in use: fewer adapters at once are faster for everyone."""

HEADROOM = 2
"""Sequences and slots of an engine beyond those that are filled, for tenants with less than their share."""

HIGH_PRIORITY, NORMAL_PRIORITY = -1, 0
"""Priorities in vLLM, which serves the smallest first. 0 is vLLM's default, which beam search uses in each step."""

RATE_WINDOW_S = 10.0
"""Time over which arrivals are counted for autoscaling, in seconds."""

OUTPUT_TOKEN_WEIGHT = 2.0
"""Cost of a generated token, relative to a prompt token, as in the paper."""


@dataclass(eq=False)
class QueuedRequest:
    """A request that is waiting or running."""

    tenant: str
    """Tenant that the request is counted for."""
    digest: str | None
    """Digest of the adapter. None: the base model."""
    prompt_tokens: int
    """Estimated number of prompt tokens."""
    num_seqs: int
    """Number of sequences that are generated."""
    queued_at_s: float
    """Time of arrival, by the event loop's clock."""
    admitted: asyncio.Future[None]
    """Done when the request may run."""
    admitted_at_s: float = 0.0
    """Time of admission, by the event loop's clock."""
    priority: int = NORMAL_PRIORITY
    """Priority in vLLM. High, if another tenant had more running sequences at admission: the prompt is read first."""


class AdmissionQueue:
    """The queue of one engine, which runs ``max_num_seqs`` sequences with ``slots`` different adapters at once.

    The engine must have room for ``headroom`` more of both.
    """

    def __init__(
        self,
        max_num_seqs: int,
        slots: int,
        *,
        headroom: int = HEADROOM,
        max_waiting: int = 4096,
        max_skip_s: float = 1.0,
    ) -> None:
        """Create an empty queue.

        Args:
            max_num_seqs: Number of sequences that run at once.
            slots: Number of adapters that are in use at once.
            headroom: Sequences and slots beyond these, for tenants with less than their share.
            max_waiting: Maximum number of waiting requests.
            max_skip_s: Time for which a request without a slot is skipped, in seconds.
        """
        self._max_num_seqs = max_num_seqs
        self._slots = slots
        self._headroom = headroom
        self._max_waiting = max_waiting
        self._max_skip_s = max_skip_s
        self._waiting: dict[str, deque[QueuedRequest]] = {}  # by tenant; no empty queues
        self._running_seqs: Counter[str] = Counter()  # by tenant
        self._running_requests: Counter[str] = Counter()  # by adapter
        self._token_counters: dict[str, float] = {}  # by tenant, of all tenants that ever had a request
        self._draining: str | None = None  # adapter that no more requests are admitted for, to free its slot
        self._reserving: QueuedRequest | None = None  # the next request, while there is too little room for it
        self._admitted_meanwhile: set[QueuedRequest] = set()  # running requests admitted since it became the next
        self._arrivals: deque[tuple[float, int]] = deque()  # time and sequences of those of the last RATE_WINDOW_S
        self._mean_duration_s = 0.0  # exponential moving average of requests' running times

    @property
    def waiting_requests(self) -> int:
        """Number of requests that wait."""
        return sum(map(len, self._waiting.values()))

    @property
    def running_seqs(self) -> int:
        """Number of sequences of running requests."""
        return self._running_seqs.total()

    @property
    def _waiting_seqs(self) -> int:
        return sum(request.num_seqs for queue in self._waiting.values() for request in queue)

    @property
    def slot_usage(self) -> float:
        """Share of the slots that running requests use, from 0 to 1."""
        return min(1.0, len(self._running_requests) / self._slots)

    def report_load(self) -> dict[str, float]:
        """Return the load.

        Returns:
            The fields of ``routing.autoscaling.EngineLoad``, by name.
        """
        waiting = {request.digest for queue in self._waiting.values() for request in queue if request.digest}
        return {
            "running": self.running_seqs,
            "waiting": self._waiting_seqs,
            "rate": self._arrival_rate(),
            "duration_s": self._mean_duration_s,
            "adapters": len(waiting | self._running_requests.keys()),
            "max_num_seqs": self._max_num_seqs,
            "slots": self._slots,
        }

    def _arrival_rate(self) -> float:
        """Return the sequences that have arrived per second lately."""
        now_s = asyncio.get_running_loop().time()
        while self._arrivals and self._arrivals[0][0] <= now_s - RATE_WINDOW_S:
            self._arrivals.popleft()
        return sum(num_seqs for _, num_seqs in self._arrivals) / RATE_WINDOW_S

    def estimate_wait_s(self) -> float:
        """Estimate how long a request that arrives now will wait.

        Returns:
            Seconds, under the assumption that all requests take as long as recent ones.
        """
        seqs_ahead = self._waiting_seqs + self.running_seqs - self._max_num_seqs + 1
        return max(0, seqs_ahead) * self._mean_duration_s / self._max_num_seqs

    @asynccontextmanager
    async def admit(
        self,
        tenant: str,
        digest: str | None,
        prompt_tokens: int,
        *,
        num_seqs: int = 1,
        max_wait_s: float | None = None,
    ) -> AsyncIterator[QueuedRequest]:
        """Wait for admission. Inside the context, the engine has room for the request and a slot for its adapter.

        Args:
            tenant: Tenant that the request is counted for.
            digest: Digest of the adapter. None: the base model.
            prompt_tokens: Estimated number of prompt tokens.
            num_seqs: Number of sequences that are generated, at most ``max_num_seqs``.
            max_wait_s: Maximum waiting time, in seconds. None: no limit.

        Yields:
            The running request.

        Raises:
            Overloaded: Too many requests wait, or the estimated wait is longer than ``max_wait_s``.
        """
        assert 1 <= num_seqs <= self._max_num_seqs
        wait_s = self.estimate_wait_s()
        if self.waiting_requests >= self._max_waiting:
            raise Overloaded(
                f"{self.waiting_requests} requests wait for this base model, which is the maximum: try again later",
                retry_after_s=wait_s,
            )
        if max_wait_s is not None and wait_s > max_wait_s:
            raise Overloaded(
                f"the response would begin in {wait_s:.1f} s, but the request allows {max_wait_s:g} s: try again "
                "later, or allow more time",
                retry_after_s=wait_s - max_wait_s,
            )
        loop = asyncio.get_running_loop()
        request = QueuedRequest(tenant, digest, prompt_tokens, num_seqs, loop.time(), loop.create_future())
        self._activate(tenant)
        self._arrivals.append((loop.time(), num_seqs))
        self._waiting.setdefault(tenant, deque()).append(request)
        try:
            self._admit_waiting(loop.time())
            await request.admitted
            yield request
        finally:
            self._remove(request, loop.time())

    def record_generated(self, request: QueuedRequest, tokens: int) -> None:
        """Charge generated tokens to the request's tenant.

        Args:
            request: A running request.
            tokens: Number of tokens generated since the last call for this request.
        """
        self._token_counters[request.tenant] += OUTPUT_TOKEN_WEIGHT * tokens
        if self._reserving and (empty := self._max_num_seqs - self.running_seqs) > 0:
            # The places that are kept empty could have generated as many tokens each.
            lost_tokens = tokens * empty / self.running_seqs
            self._token_counters[self._reserving.tenant] += OUTPUT_TOKEN_WEIGHT * lost_tokens

    def _activate(self, tenant: str) -> None:
        """Raise the counter of a tenant that had no requests to the smallest counter of the active tenants."""
        active = self._waiting.keys() | self._running_seqs.keys()
        if tenant not in active:
            smallest = min((self._token_counters[other] for other in active), default=0.0)
            self._token_counters[tenant] = max(self._token_counters.get(tenant, 0.0), smallest)

    def _remove(self, request: QueuedRequest, now_s: float) -> None:
        """Remove a request that has ended or was canceled, and admit others in its place."""
        if request in self._waiting.get(request.tenant, ()):
            self._dequeue(request)
        else:
            duration_s = now_s - request.admitted_at_s
            self._mean_duration_s += (duration_s - self._mean_duration_s) * (0.1 if self._mean_duration_s else 1)
            self._admitted_meanwhile.discard(request)
            _decrement(self._running_seqs, request.tenant, request.num_seqs)
            if request.digest is not None:
                _decrement(self._running_requests, request.digest)
                if request.digest == self._draining and request.digest not in self._running_requests:
                    self._draining = None
        self._admit_waiting(now_s)

    def _admit_waiting(self, now_s: float) -> None:
        """Admit waiting requests until there is no room for the next."""
        while request := self._choose_next(now_s):
            self._dequeue(request)
            if self._reserving:
                self._admitted_meanwhile.add(request)
            self._running_seqs[request.tenant] += request.num_seqs
            if request.digest is not None:
                self._running_requests[request.digest] += 1
            self._token_counters[request.tenant] += request.prompt_tokens
            request.admitted_at_s = now_s
            # Done already, if it was canceled in this very moment: then it is removed at once.
            if not request.admitted.done():
                request.admitted.set_result(None)

    def _choose_next(self, now_s: float) -> QueuedRequest | None:
        """Choose the longest-waiting request of the tenant with the smallest counter that there is room for.

        Side effects: may begin to drain an adapter, to reserve room, and sets the request's priority.
        """
        if (request := self._reserving) and self._fits(request, headroom=len(self._admitted_meanwhile)):
            return request
        num_active = len(self._waiting.keys() | self._running_seqs.keys())
        for tenant in sorted(self._waiting, key=self._token_counters.__getitem__):
            has_less = num_active > 1 and self._running_seqs[tenant] * num_active < self._max_num_seqs
            headroom = self._headroom if has_less else 0
            if self.running_seqs >= self._max_num_seqs + headroom:
                continue
            if self._reserving and len(self._admitted_meanwhile) >= headroom:
                continue
            chosen = self._choose_of_tenant(tenant, now_s, headroom)
            if chosen and not self._fits(chosen, headroom):
                self._reserving = chosen
                return self._choose_next(now_s)
            if chosen:
                most_seqs = max(self._running_seqs.values(), default=0)
                if has_less and self._running_seqs[tenant] + chosen.num_seqs < most_seqs:
                    chosen.priority = HIGH_PRIORITY
                return chosen
        return None

    def _choose_of_tenant(self, tenant: str, now_s: float, headroom: int) -> QueuedRequest | None:
        """Choose the tenant's request with a slot that has waited longest, with the bonus for adapters in use.

        Begin to drain the least busy adapter, if a request without a slot was skipped for too long.
        """
        chosen, longest_wait_s, longest_skip_s = None, -1.0, 0.0
        for request in self._waiting[tenant]:
            if self._reserving and request.num_seqs > 1:
                continue
            wait_s = now_s - request.queued_at_s
            if not self._has_slot(request.digest, self._slots + headroom):
                longest_skip_s = max(longest_skip_s, wait_s)
                continue
            wait_s *= ADAPTER_AFFINITY_BONUS if request.digest in self._running_requests else 1
            if wait_s > longest_wait_s:
                chosen, longest_wait_s = request, wait_s
        if self._draining is None and longest_skip_s > max(self._max_skip_s, longest_wait_s):
            self._draining = min(self._running_requests, key=self._running_requests.__getitem__)
        return chosen

    def _fits(self, request: QueuedRequest, headroom: int) -> bool:
        has_room = self.running_seqs + request.num_seqs <= self._max_num_seqs + headroom
        return has_room and self._has_slot(request.digest, self._slots + headroom)

    def _has_slot(self, digest: str | None, slots: int) -> bool:
        if digest is None:
            return True
        if digest in self._running_requests:
            return digest != self._draining
        return len(self._running_requests) < slots

    def _dequeue(self, request: QueuedRequest) -> None:
        if request is self._reserving:
            self._reserving = None
            self._admitted_meanwhile.clear()
        self._waiting[request.tenant].remove(request)
        if not self._waiting[request.tenant]:
            del self._waiting[request.tenant]


def _decrement(counter: Counter[str], key: str, by: int = 1) -> None:
    """Subtract ``by`` and delete the key at 0."""
    counter[key] -= by
    if not counter[key]:
        del counter[key]
