"""What is seen of answers as they pass: how soon, how fast, how many tokens, and of a canary beside its fellow."""

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import quantiles

from looper.platform.api.models import VersionTraffic
from looper.serve.gateway.metrics import GatewayMetrics
from looper.serve.gateway.request_log import RequestRecord as Seen
from looper.serve.protocol import AdmissionInfo, FullResponse, Tokens

MOST_SPLIT = 1000
"""Skills with a canary that are watched, the last asked for."""

MOST_TIMES = 1000
"""Latest answers of a version whose times are kept."""


@dataclass
class VersionStats:
    """What one version has answered since it has been watched."""

    requests: int = 0
    failed: int = 0
    tokens: int = 0
    first_s: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_TIMES))
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_TIMES))

    def summary(self) -> VersionTraffic:
        """For people to compare: counts, and the median and 95th percentile of times in seconds."""
        return VersionTraffic(
            requests=self.requests,
            failed=self.failed,
            tokens=self.tokens,
            first_token_s=_spread(self.first_s),
            seconds=_spread(self.seconds),
        )


class TrafficStats:
    """Of skills whose requests are split: a tally of each version, side by side. In a gateway's memory."""

    def __init__(self) -> None:
        self._tallies: OrderedDict[str, dict[str, VersionStats]] = OrderedDict()

    def tally(self, skill: str, digest: str) -> VersionStats:
        versions = self._tallies.setdefault(skill, {})
        self._tallies.move_to_end(skill)
        if len(self._tallies) > MOST_SPLIT:
            self._tallies.popitem(last=False)
        return versions.setdefault(digest, VersionStats())

    def of(self, skill: str) -> dict[str, VersionTraffic]:
        """By digest; empty if the skill's requests were not split since this gateway began."""
        return {digest: tally.summary() for digest, tally in self._tallies.get(skill, {}).items()}


class RequestRecorder:
    """Of one answer, from the moment its request came."""

    def __init__(
        self,
        metrics: GatewayMetrics,
        seen: Seen,
        channel: str,
        tally: VersionStats | None,
        cost: Callable[[int], None],
    ) -> None:
        """``cost`` is told how many tokens have been read and generated in all, each time that more are known."""
        self._metrics = metrics
        self._seen = seen
        self._channel = channel
        self._tally = tally
        self._cost = cost
        self._began = self._last = time.perf_counter()
        self._spoke = False
        self._tokens = Tokens(0, 0)

    def opened(self, opening: AdmissionInfo) -> None:
        metrics, tier, seen = self._metrics, opening.tier, self._seen
        seen.adapter_from, seen.queue_s = tier, opening.wait_s
        seen.load_s = None if tier is None else opening.load_s
        metrics.waited_s.observe(opening.wait_s)
        metrics.slots_taken.observe(opening.slots_taken)
        if tier is not None:
            metrics.adapters.labels(tier).inc()
            if tier != "memory":
                metrics.load_s.labels(tier).observe(opening.load_s)
        for put_out_of, count in opening.evicted.items():
            metrics.evicted.labels(put_out_of).inc(count)

    def counted(self, tokens: Tokens) -> None:
        """What the engine has counted until now. One that takes over from another counts from nothing again."""
        read, generated = max(self._tokens.read, tokens.read), max(self._tokens.generated, tokens.generated)
        for kind, more in (("read", read - self._tokens.read), ("generated", generated - self._tokens.generated)):
            if more:
                self._metrics.tokens.labels(self._channel, kind).inc(more)
        self._tokens = Tokens(read, generated)
        self._seen.tokens_read, self._seen.tokens_generated = read, generated
        self._cost(read + generated)

    def events(self) -> None:
        """Some of a stream's come."""
        now = time.perf_counter()
        if not self._spoke:
            self._spoke = True
            self._metrics.first_token_s.labels(self._channel).observe(now - self._began)
            if self._tally is not None:
                self._tally.first_s.append(now - self._began)
        else:
            self._metrics.between_tokens_s.labels(self._channel).observe(now - self._last)
        self._last = now

    def whole(self, answer: FullResponse) -> None:
        if answer.tokens or answer.status >= 400:  # what was refused before it began costs nothing
            self.counted(answer.tokens or Tokens(0, 0))
        if answer.status >= 500:
            self.failed()
        else:
            self.ended()

    def ended(self) -> None:
        if self._tally is not None:
            self._tally.requests += 1
            self._tally.tokens += self._tokens.generated
            self._tally.seconds.append(time.perf_counter() - self._began)

    def failed(self) -> None:
        if self._tally is not None:
            self._tally.requests += 1
            self._tally.failed += 1


def _spread(times: deque[float]) -> dict[str, float] | None:
    if len(times) < 2:
        return {"p50": times[0], "p95": times[0]} if times else None
    cuts = quantiles(times, n=20, method="inclusive")
    return {"p50": cuts[9], "p95": cuts[18]}
