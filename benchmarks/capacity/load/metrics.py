"""Metrics of one load: throughput, latency percentiles, the latency objective and cache tiers.

``bench`` computes them from measured results, and the simulator from predicted ones.
"""

import statistics
from collections import Counter
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from looper.benchmarks.capacity.load.clients import RequestResult

SLO_TTFT_S = 5.0
"""The latency objective: the maximum time to the first token."""


class Percentiles(BaseModel):
    """Percentiles of a latency, in seconds."""

    model_config = ConfigDict(frozen=True)

    p50: float
    """The median."""
    p95: float
    """The 95th percentile."""
    p99: float
    """The 99th percentile."""

    @classmethod
    def from_seconds(cls, seconds: Sequence[float]) -> "Percentiles | None":
        """Compute the percentiles of a sample.

        Args:
            seconds: The sample.

        Returns:
            The percentiles, or None for an empty sample.
        """
        if not seconds:
            return None
        p50, p95, p99 = (round(float(value), 4) for value in np.percentile(seconds, (50, 95, 99)))
        return cls(p50=p50, p95=p95, p99=p99)

    @classmethod
    def median(cls, rounds: "Sequence[Percentiles | None]") -> "Percentiles | None":
        """Return the median of each percentile over several rounds.

        Args:
            rounds: The percentiles of each round; None is ignored.

        Returns:
            The medians, or None if no round has percentiles.
        """
        present = [percentiles for percentiles in rounds if percentiles]
        if not present:
            return None
        names = cls.model_fields
        return cls(**{name: statistics.median(getattr(one, name) for one in present) for name in names})


class LoadMetrics(BaseModel):
    """Metrics of one load on one peer. The field names are those of ``capacity.json``."""

    model_config = ConfigDict(frozen=True)

    requests: int
    """Number of requests."""
    failed: int
    """Number of requests without a complete answer."""
    requests_per_s: float
    """Complete answers per second, until the last token of the load."""
    tokens_per_s: float
    """Generated tokens per second, including those of incomplete answers."""
    first_s: Percentiles | None
    """Time to the first token (TTFT), from the moment when the request was due."""
    between_s: Percentiles | None
    """Inter-token latency (ITL)."""
    slo: float
    """Share of all requests whose first token arrived within ``SLO_TTFT_S``."""
    found: dict[str, int]
    """Number of requests by the cache tier in which their adapter was found; empty if the peer does not tell it."""

    @classmethod
    def median(cls, rounds: "Sequence[LoadMetrics]") -> "LoadMetrics":
        """Return the median of each metric over several rounds; the counts of ``found`` are added up.

        Args:
            rounds: The metrics of each round.

        Returns:
            The medians.
        """

        def median_of(name: str) -> float:
            return float(statistics.median(getattr(metrics, name) for metrics in rounds))

        return cls(
            requests=round(median_of("requests")),
            failed=round(median_of("failed")),
            requests_per_s=median_of("requests_per_s"),
            tokens_per_s=median_of("tokens_per_s"),
            first_s=Percentiles.median([metrics.first_s for metrics in rounds]),
            between_s=Percentiles.median([metrics.between_s for metrics in rounds]),
            slo=median_of("slo"),
            found=dict(sum((Counter(metrics.found) for metrics in rounds), Counter())),
        )


def compute_metrics(results: Sequence[RequestResult]) -> LoadMetrics:
    """Compute the metrics of one load.

    Args:
        results: The results of all its requests.

    Returns:
        The metrics.
    """
    complete = [result for result in results if result.finished_s is not None]
    started = [result for result in results if result.token_times_s]
    end_s = max((result.token_times_s[-1] for result in started), default=0.0)
    ttfts_s = [result.ttft_s for result in started]
    return LoadMetrics(
        requests=len(results),
        failed=len(results) - len(complete),
        requests_per_s=round(len(complete) / end_s, 3) if end_s else 0.0,
        tokens_per_s=round(sum(len(result.token_times_s) for result in started) / end_s, 2) if end_s else 0.0,
        first_s=Percentiles.from_seconds(ttfts_s),
        between_s=Percentiles.from_seconds([gap for result in started for gap in result.inter_token_s]),
        slo=round(sum(ttft_s <= SLO_TTFT_S for ttft_s in ttfts_s) / len(results), 4),
        found=dict(Counter(result.tier for result in results if result.tier)),
    )
