"""Records each response in the metrics, in the request log and in the comparison of a canary with ``prod``.

``completion_handler`` creates a ``RequestRecorder`` per request, and ``response_stream`` calls it.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import quantiles

from looper.platform.api.models import VersionTraffic
from looper.platform.domain.names import InstanceName
from looper.serve.gateway.metrics import CHANNELS, GatewayMetrics
from looper.serve.gateway.request_log import RequestRecord
from looper.serve.protocol import AdmissionInfo, FullResponse, TokenCounts

MAX_SKILLS = 1000
"""Number of skills with a canary that are compared. The one requested least recently is forgotten first."""

MAX_SAMPLES = 1000
"""Number of the latest responses of a version whose times are kept."""


@dataclass
class VersionStats:
    """What one version of a skill with a canary has answered since this gateway started."""

    requests: int = 0
    """Number of requests."""
    failed: int = 0
    """Number of requests that failed."""
    tokens: int = 0
    """Number of generated tokens."""
    first_token_s: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_SAMPLES))
    """Seconds to the first token of the latest streamed responses."""
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_SAMPLES))
    """Seconds until the latest responses were complete."""

    def add(self, other: "VersionStats") -> None:
        """Add what another gateway has counted of the same version.

        Args:
            other: Counts of the other gateway.
        """
        self.requests += other.requests
        self.failed += other.failed
        self.tokens += other.tokens
        # As many of each gateway's times as there are, not the latest MAX_SAMPLES of all.
        self.first_token_s = deque([*self.first_token_s, *other.first_token_s])
        self.seconds = deque([*self.seconds, *other.seconds])

    def summarize(self) -> VersionTraffic:
        """Return the counts, and the median and the 95th percentile of the times in seconds."""
        return VersionTraffic(
            requests=self.requests,
            failed=self.failed,
            tokens=self.tokens,
            first_token_s=_percentiles(self.first_token_s),
            seconds=_percentiles(self.seconds),
        )


class TrafficStats:
    """Compares the versions of skills whose requests are split. The numbers are in this gateway's memory."""

    def __init__(self) -> None:
        self._stats: OrderedDict[InstanceName, dict[str, VersionStats]] = OrderedDict()

    def stats_of(self, skill: InstanceName, digest: str) -> VersionStats:
        """Return the statistics of a version, to be updated.

        Args:
            skill: The skill.
            digest: Digest of the version.

        Returns:
            The statistics, new ones if there are none.
        """
        versions = self._stats.setdefault(skill, {})
        self._stats.move_to_end(skill)
        if len(self._stats) > MAX_SKILLS:
            self._stats.popitem(last=False)
        return versions.setdefault(digest, VersionStats())

    def versions_of(self, skill: InstanceName) -> Mapping[str, VersionStats]:
        """Return the statistics of a skill's versions.

        Args:
            skill: The skill.

        Returns:
            Statistics by digest. Empty if no request of the skill was split since this gateway started.
        """
        return self._stats.get(skill, {})


class RequestRecorder:
    """Records one response.

    Args:
        metrics: Metrics to update.
        record: The request's line in the log.
        channel: Channel that the version was resolved through, "version" for a digest, "base" for the base model.
        stats: Statistics of the version if the skill's requests are split, else None.
        charge_tokens: Called with the number of prompt and generated tokens so far, each time it has changed.
    """

    def __init__(
        self,
        metrics: GatewayMetrics,
        record: RequestRecord,
        channel: str,
        stats: VersionStats | None,
        charge_tokens: Callable[[int], None],
    ) -> None:
        self._metrics = metrics
        self._record = record
        self._channel = channel if channel in CHANNELS else "other"
        self._stats = stats
        self._charge_tokens = charge_tokens
        self._started_at = self._last_event_at = time.perf_counter()
        self._has_first_token = False
        self._tokens = TokenCounts(0, 0)

    def record_admission(self, admission: AdmissionInfo) -> None:
        """Record how the replica prepared the request.

        Args:
            admission: Where the adapter was found, and how long loading and waiting took.
        """
        metrics, tier, record = self._metrics, admission.tier, self._record
        record.adapter_from, record.queue_s = tier, admission.wait_s
        record.load_s = None if tier is None else admission.load_s
        metrics.queue_wait_s.observe(admission.wait_s)
        metrics.slot_usage.observe(admission.slot_usage)
        if tier is not None:
            metrics.adapter_lookups.labels(tier).inc()
            if tier != "memory":
                metrics.adapter_load_s.labels(tier).observe(admission.load_s)
        for evicted_from, count in admission.evicted.items():
            metrics.adapters_evicted.labels(evicted_from).inc(count)

    def record_tokens(self, tokens: TokenCounts) -> None:
        """Record and charge the tokens that were counted since the last call.

        Args:
            tokens: The engine's counts so far. A replica that takes over from one that died starts again at 0, so
                lower counts change nothing.
        """
        prompt, generated = max(self._tokens.prompt, tokens.prompt), max(self._tokens.generated, tokens.generated)
        for kind, added in (("read", prompt - self._tokens.prompt), ("generated", generated - self._tokens.generated)):
            if added:
                self._metrics.tokens.labels(self._channel, kind).inc(added)
        self._tokens = TokenCounts(prompt, generated)
        self._record.tokens_read, self._record.tokens_generated = prompt, generated
        self._charge_tokens(prompt + generated)

    def record_events(self) -> None:
        """Record that events of a stream have arrived now."""
        now = time.perf_counter()
        if not self._has_first_token:
            self._has_first_token = True
            self._metrics.first_token_s.labels(self._channel).observe(now - self._started_at)
            if self._stats is not None:
                self._stats.first_token_s.append(now - self._started_at)
        else:
            self._metrics.between_tokens_s.labels(self._channel).observe(now - self._last_event_at)
        self._last_event_at = now

    def record_response(self, response: FullResponse) -> None:
        """Record a response that is not streamed, or an error.

        Args:
            response: The response.
        """
        if response.tokens or response.status >= 400:  # an error before the engine has started costs no tokens
            self.record_tokens(response.tokens or TokenCounts(0, 0))
        if response.status >= 500:
            self.record_failure()
        else:
            self.record_success()

    def record_success(self) -> None:
        """Record that the response is complete."""
        if self._stats is not None:
            self._stats.requests += 1
            self._stats.tokens += self._tokens.generated
            self._stats.seconds.append(time.perf_counter() - self._started_at)

    def record_failure(self) -> None:
        """Record that the response failed."""
        if self._stats is not None:
            self._stats.requests += 1
            self._stats.failed += 1


def _percentiles(times: deque[float]) -> dict[str, float] | None:
    if len(times) < 2:
        return {"p50": times[0], "p95": times[0]} if times else None
    cuts = quantiles(times, n=20, method="inclusive")
    return {"p50": cuts[9], "p95": cuts[18]}
