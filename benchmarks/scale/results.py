"""The report of the scale benchmark, and the figures that follow from its rows. ``bench`` creates it."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from looper.benchmarks.scale.costs.rows import CostRow
from looper.benchmarks.scale.plan import PROMOTIONS_PER_REPLICA
from looper.benchmarks.scale.simulation.scenarios import ScenarioResult
from looper.serve.gateway import adapter_prefetcher, revocation

LARGE_REPLICAS = 1000
"""Number of replicas from which on a scenario's choices are reported."""


class ScaleReport(BaseModel):
    """The content of ``scale.json``."""

    model_config = ConfigDict(frozen=True)

    machine: str
    """The machine that the costs were measured on."""
    settings: dict[str, Any]
    """The settings of the run."""
    rows: tuple[ScenarioResult | CostRow, ...]
    """Simulated scenarios and measured costs."""
    ratios: dict[str, float]
    """What follows from the rows: where each part is full, and what a change gains."""

    @property
    def scenarios(self) -> dict[str, ScenarioResult]:
        """The simulated scenarios, by name."""
        return {row.scenario: row for row in self.rows if isinstance(row, ScenarioResult)}

    @property
    def costs(self) -> list[CostRow]:
        """The measured costs."""
        return [row for row in self.rows if isinstance(row, CostRow)]


def compute_ratios(rows: tuple[ScenarioResult | CostRow, ...]) -> dict[str, float]:
    """Compute where each part is full, and what changes gain.

    Args:
        rows: The rows of the report.

    Returns:
        The figures that the rows allow, by name.
    """
    cost = {(row.what, row.size): row.value for row in rows if isinstance(row, CostRow)}
    ratios: dict[str, float] = {}

    def add(name: str, numerator: float | None, denominator: float | None) -> None:
        if numerator is not None and denominator:
            ratios[name] = float(f"{numerator / denominator:.3g}")

    counts = sorted(size for what, size in cost if what == "choice of a replica")
    for count in counts:
        slow, fast = cost[("choice by hashing and sorting all", count)], cost[("choice of a replica", count)]
        add(f"choice by hashing and sorting all over the choice, {count} replicas", slow, fast)
    lookups, single = "the 3 look-ups of a request", "the same in one statement"
    server, client = ", CPU of PostgreSQL", ", CPU of the gateway"
    add("requests/s that fill a core of PostgreSQL", 1e6, cost.get((lookups + server, 8)))
    add("requests/s that fill a core of a gateway with look-ups", 1e6, cost.get((lookups + client, 8)))
    add("CPU of PostgreSQL, 3 look-ups over one", cost.get((lookups + server, 8)), cost.get((single + server, 8)))
    add("CPU of the gateway, 3 look-ups over one", cost.get((lookups + client, 8)), cost.get((single + client, 8)))
    if counts:
        add("requests/s that fill a core of a gateway with choices", 1e6, cost[("choice of a replica", counts[-1])])
    for what, interval_s in (
        ("promotions", adapter_prefetcher.POLL_INTERVAL_S),
        ("revocations", revocation.POLL_INTERVAL_S),
    ):
        for suffix in (", without its index", ""):
            name = f"a gateway's poll for {what}{suffix}{server}"
            sizes = [size for found, size in cost if found == name]
            if sizes:
                busy_ms = cost[(name, min(sizes))] / interval_s
                add(f"gateways whose polls for {what} fill a core of PostgreSQL{suffix}", 1e3, busy_ms)
    _add_simulated({row.scenario: row for row in rows if isinstance(row, ScenarioResult)}, ratios)
    return ratios


def _add_simulated(scenarios: dict[str, ScenarioResult], ratios: dict[str, float]) -> None:
    with_prefetch, without = scenarios.get("promotions"), scenarios.get("promotions, not prefetched")
    if with_prefetch and without and with_prefetch.cold_after_promotion is not None:
        ratios["cold first requests after a promotion, prefetched"] = with_prefetch.cold_after_promotion
        ratios["cold first requests after a promotion, not prefetched"] = without.cold_after_promotion or 0.0
    lone, most = scenarios.get("1 gateways"), [row for name, row in scenarios.items() if name.endswith(" gateways")]
    if lone and most:
        last = max(most, key=lambda row: row.gateways)
        name = f"busiest replica over the mean, {last.gateways} gateways over one"
        ratios[name] = round(last.max_over_mean_load / lone.max_over_mean_load, 3)
    if with_prefetch and with_prefetch.polled_rows_per_s:
        ratios[f"rows that polls return for each promotion, {with_prefetch.gateways} gateways"] = round(
            with_prefetch.polled_rows_per_s / PROMOTIONS_PER_REPLICA / with_prefetch.replicas, 1
        )
    for row in scenarios.values():
        if row.replicas >= LARGE_REPLICAS:
            name = f"choices per second and gateway, {row.replicas} replicas"
            ratios[name] = round(row.choices_per_s / row.gateways, 1)
    ratios["requests without an answer, a refusal or an error"] = float(
        sum(row.requests - row.answered - row.refused - row.lost for row in scenarios.values())
    )
