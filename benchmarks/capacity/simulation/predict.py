"""``looper bench capacity --simulate``: what the simulator says of loads that were measured, and of what was not."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict
from rich.table import Table

from looper.benchmarks.capacity.load.cases import KNOWN, Case
from looper.benchmarks.capacity.load.figures import Figures, sum_up
from looper.benchmarks.capacity.load.workload import Load, draw
from looper.benchmarks.capacity.simulation.simulator import Cluster, Costs, simulate

SLO = 0.95
"""Of all requests, those whose first token must come in time for a cluster to carry a load."""

MOST = 100_000
"""Adapters: the search ends there."""

SECONDS = 600.0
"""Of simulated load, for a question that no measurement answers: long enough for rare adapters to come and go."""


class Prediction(BaseModel):
    """Of one load, beside what was measured."""

    model_config = ConfigDict(frozen=True)

    name: str
    predicted: Figures
    measured: Figures

    @property
    def throughput_error(self) -> float:
        """Of tokens per second, as a share of the measured."""
        return abs(self.predicted.tokens_per_s / self.measured.tokens_per_s - 1)

    @property
    def first_error(self) -> float | None:
        """Of the 95th percentile of the time to the first token, as a share of the measured."""
        ours, theirs = self.predicted.first_s, self.measured.first_s
        return abs(ours.p95 / theirs.p95 - 1) if ours and theirs else None


class Carried(BaseModel):
    """How many adapters so many engines carry at a rate, within the objective."""

    model_config = ConfigDict(frozen=True)

    replicas: int
    rate: float
    adapters: int
    """0: not even one."""


class SimulationReport(BaseModel):
    """What ``--simulate`` prints."""

    model_config = ConfigDict(frozen=True)

    costs: Costs
    cluster: Cluster
    predictions: tuple[Prediction, ...]
    carried: tuple[Carried, ...]


def predict(case: Case, measured: Figures, cluster: Cluster, costs: Costs) -> Prediction:
    # As the benchmark does: each adapter once, the most popular last, and then a little of the load.
    known = [
        *reversed(range(min(case.load.adapters, KNOWN))),
        *(each.adapter for each in draw(case.warm_up()) if each.adapter is not None),
    ]
    answers = simulate(draw(case.load), cluster, costs, within_s=case.within_s, known=known)
    return Prediction(name=case.name, predicted=sum_up(answers), measured=measured)


def carried(cluster: Cluster, costs: Costs, rate: float) -> Carried:
    """Search by doubling, then halving: more adapters are never easier."""

    def within(adapters: int) -> bool:
        load = Load(adapters=adapters, rate=rate, seconds=SECONDS)
        known = reversed(range(min(adapters, cluster.replicas * cluster.on_disk)))
        return sum_up(simulate(draw(load), cluster, costs, within_s=SECONDS + 60, known=known)).slo >= SLO

    most = 0
    step = 1
    while most + step <= MOST and within(most + step):
        most, step = most + step, 2 * step
    while step > max(1, most // 20):
        step //= 2
        if most + step <= MOST and within(most + step):
            most += step
    return Carried(replicas=cluster.replicas, rate=rate, adapters=most)


def simulation(
    measured: Sequence[tuple[Case, Figures]],
    cluster: Cluster,
    costs: Costs,
    rates: Sequence[float],
    replicas: Sequence[int],
) -> SimulationReport:
    return SimulationReport(
        costs=costs,
        cluster=cluster,
        predictions=tuple(predict(case, figures, cluster, costs) for case, figures in measured),
        carried=tuple(
            carried(cluster.model_copy(update={"replicas": number}), costs, rate)
            for number in replicas
            for rate in rates
        ),
    )


def to_tables(found: SimulationReport) -> list[Table]:
    errors = Table(
        "load", "tokens/s predicted", "measured", "error", "TTFT p95 predicted", "measured", "error", box=None
    )
    for each in found.predictions:
        first, seen = each.predicted.first_s, each.measured.first_s
        errors.add_row(
            each.name,
            f"{each.predicted.tokens_per_s:.1f}",
            f"{each.measured.tokens_per_s:.1f}",
            f"{each.throughput_error:.1%}",
            f"{first.p95:.2f} s" if first else "-",
            f"{seen.p95:.2f} s" if seen else "-",
            "-" if each.first_error is None else f"{each.first_error:.1%}",
        )
    capacity = Table("engines", "requests/s", f"adapters, {SLO:.0%} in time", box=None)
    for one in found.carried:
        most = f"more than {one.adapters}" if one.adapters >= MOST // 2 else str(one.adapters)
        capacity.add_row(str(one.replicas), f"{one.rate:g}", most if one.adapters else "none: the load is too much")
    return [errors, capacity]
