"""The results of the capacity benchmark: one round, the medians of a load's rounds, and the whole report.

``bench`` creates them, and ``report`` formats them. The field names are those of ``capacity.json``.
"""

import statistics
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from looper.benchmarks.capacity.load.cases import COLD_ADAPTERS
from looper.benchmarks.capacity.load.metrics import LoadMetrics


class CapacityRound(BaseModel):
    """Results of one round of one load."""

    model_config = ConfigDict(frozen=True)

    peer: str
    """Name of the peer."""
    kind: str
    """Kind of the load."""
    adapters: int
    """Number of adapters."""
    rate: float
    """Requests per second that were sent."""
    figures: LoadMetrics
    """The metrics of the load."""
    stolen: float
    """Share of the CPU time that the host of a virtual machine took during the load (steal time)."""
    all_answered_s: float | None = None
    """Seconds until all cold adapters had answered; None for other kinds of load."""


class CapacityRow(CapacityRound):
    """Medians of the rounds of one load."""

    rounds: int
    """Number of rounds."""
    tokens_per_s: tuple[float, float]
    """Minimum and maximum of all rounds."""
    first_p95_s: tuple[float, float] | None
    """Minimum and maximum of the 95th percentile of TTFT of all rounds."""

    @classmethod
    def from_rounds(cls, rounds: Sequence[CapacityRound]) -> "CapacityRow":
        """Compute the medians.

        Args:
            rounds: All rounds of one load on one peer.

        Returns:
            The row of the report.
        """
        metrics = [one.figures for one in rounds]
        tokens_per_s = [one.tokens_per_s for one in metrics]
        ttft_p95_s = [one.first_s.p95 for one in metrics if one.first_s]
        all_answered_s = [one.all_answered_s for one in rounds if one.all_answered_s is not None]
        first = rounds[0]
        return cls(
            peer=first.peer,
            kind=first.kind,
            adapters=first.adapters,
            rate=first.rate,
            figures=LoadMetrics.median(metrics),
            stolen=statistics.median(one.stolen for one in rounds),
            all_answered_s=statistics.median(all_answered_s) if all_answered_s else None,
            rounds=len(rounds),
            tokens_per_s=(min(tokens_per_s), max(tokens_per_s)),
            first_p95_s=(min(ttft_p95_s), max(ttft_p95_s)) if ttft_p95_s else None,
        )


class CapacityReport(BaseModel):
    """The content of ``capacity.json``."""

    model_config = ConfigDict(frozen=True)

    machine: str
    """The machine that the numbers were measured on."""
    settings: dict[str, Any]
    """The settings of the run."""
    rows: tuple[CapacityRow, ...]
    """One row per load and peer."""
    ratios: dict[str, float]
    """How Looper compares with itself at fewer adapters, and with the other peers."""
    promises: dict[str, dict[str, float]]
    """Metrics of each experiment, in seconds unless the name of the metric says otherwise."""


def compute_ratios(rows: Sequence[CapacityRow]) -> dict[str, float]:
    """Compare Looper with many adapters to itself with few adapters, and to the other peers.

    Args:
        rows: The rows of the report.

    Returns:
        The ratios that the rows allow, by name.
    """
    row_of = {(row.peer, row.kind, row.adapters): row for row in rows}
    counts = sorted({row.adapters for row in rows if row.kind == "full"})
    few, many = (5 if 5 in counts else counts[0]), counts[-1]
    ratios: dict[str, float] = {}

    def add_ratio(name: str, numerator: float | None, denominator: float | None) -> None:
        if numerator and denominator:
            ratios[name] = round(numerator / denominator, 3)

    def tokens_per_s(peer: str, count: int) -> float | None:
        row = row_of.get((peer, "full", count))
        return row.figures.tokens_per_s if row else None

    def ttft_s(peer: str, count: int, percentile: str) -> float | None:
        row = row_of.get((peer, "steady", count))
        return float(getattr(row.figures.first_s, percentile)) if row and row.figures.first_s else None

    def cold_s(peer: str) -> float | None:
        row = row_of.get((peer, "cold", COLD_ADAPTERS))
        return row.all_answered_s if row else None

    add_ratio(f"throughput at {many} over {few}", tokens_per_s("looper", many), tokens_per_s("looper", few))
    add_ratio(f"TTFT p95 at {many} over {few}", ttft_s("looper", many, "p95"), ttft_s("looper", few, "p95"))
    for peer in dict.fromkeys(row.peer for row in rows if row.peer != "looper"):
        for count in counts:
            add_ratio(f"throughput over {peer}, {count}", tokens_per_s("looper", count), tokens_per_s(peer, count))
            add_ratio(f"TTFT p99 over {peer}, {count}", ttft_s("looper", count, "p99"), ttft_s(peer, count, "p99"))
        add_ratio(f"{COLD_ADAPTERS} cold over {peer}", cold_s("looper"), cold_s(peer))
    return ratios
