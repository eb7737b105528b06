"""``looper bench capacity --simulate``: predict measured loads, and the capacity of clusters that were not measured.

``bench.simulate_capacity`` calls ``run_simulation``.
"""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict
from rich.table import Table

from looper.benchmarks.capacity.load.cases import MAX_PREWARMED_ADAPTERS, LoadCase
from looper.benchmarks.capacity.load.metrics import LoadMetrics, compute_metrics
from looper.benchmarks.capacity.load.workload import LoadSpec, generate_requests
from looper.benchmarks.capacity.simulation.simulator import Cluster, EngineCosts, simulate

MIN_SLO_SHARE = 0.95
"""Share of requests that have to meet the latency objective for a cluster to count as large enough."""

MAX_ADAPTERS = 100_000
"""Number of adapters at which the search ends."""

SIMULATED_S = 600.0
"""Seconds of simulated load for a capacity estimate: long enough to load and evict rare adapters."""


class Prediction(BaseModel):
    """Predicted and measured metrics of one load."""

    model_config = ConfigDict(frozen=True)

    name: str
    """Name of the load."""
    predicted: LoadMetrics
    """What the simulator predicts."""
    measured: LoadMetrics
    """What was measured."""

    @property
    def throughput_error(self) -> float:
        """Error of the predicted tokens per second, relative to the measured value."""
        return abs(self.predicted.tokens_per_s / self.measured.tokens_per_s - 1)

    @property
    def ttft_error(self) -> float | None:
        """Error of the predicted 95th percentile of TTFT, relative to the measured value; None without any token."""
        predicted, measured = self.predicted.first_s, self.measured.first_s
        return abs(predicted.p95 / measured.p95 - 1) if predicted and measured else None


class CapacityEstimate(BaseModel):
    """How many adapters a cluster can serve at a request rate within the latency objective."""

    model_config = ConfigDict(frozen=True)

    replicas: int
    """Number of engines."""
    rate: float
    """Requests per second."""
    adapters: int
    """Number of adapters; 0 if the rate is too high even for one."""


class SimulationReport(BaseModel):
    """The content of ``simulation.json``."""

    model_config = ConfigDict(frozen=True)

    costs: EngineCosts
    """The calibrated costs of the engine."""
    cluster: Cluster
    """Size of prediction engine."""
    predictions: tuple[Prediction, ...]
    """One prediction per measured load."""
    carried: tuple[CapacityEstimate, ...]
    """One estimate per number of engines and request rate."""


def predict(case: LoadCase, measured: LoadMetrics, cluster: Cluster, costs: EngineCosts) -> Prediction:
    """Predict a load that was measured.

    Args:
        case: The load.
        measured: Its measured metrics.
        cluster: Size of the cluster.
        costs: Costs of an engine.

    Returns:
        The prediction beside the measurement.
    """
    # The benchmark also requests prediction adapter once, the most popular last, and then sends a short warm-up load.
    prewarmed = [
        *reversed(range(min(case.load.adapters, MAX_PREWARMED_ADAPTERS))),
        *(request.adapter for request in generate_requests(case.warm_up_load()) if request.adapter is not None),
    ]
    requests = generate_requests(case.load)
    results = simulate(requests, cluster, costs, timeout_s=case.timeout_s, prewarmed=prewarmed)
    return Prediction(name=case.name, predicted=compute_metrics(results), measured=measured)


def estimate_capacity(cluster: Cluster, costs: EngineCosts, rate: float) -> CapacityEstimate:
    """Estimate how many adapters a cluster can serve, to within 5 %.

    The search first doubles and then halves its step, since more adapters are never easier to serve.

    Args:
        cluster: Size of the cluster.
        costs: Costs of an engine.
        rate: Requests per second.

    Returns:
        The estimate.
    """

    def meets_slo(adapters: int) -> bool:
        load = LoadSpec(adapters=adapters, rate=rate, seconds=SIMULATED_S)
        prewarmed = reversed(range(min(adapters, cluster.replicas * cluster.on_disk)))
        results = simulate(generate_requests(load), cluster, costs, timeout_s=SIMULATED_S + 60, prewarmed=prewarmed)
        return compute_metrics(results).slo >= MIN_SLO_SHARE

    adapters = 0
    step = 1
    while adapters + step <= MAX_ADAPTERS and meets_slo(adapters + step):
        adapters, step = adapters + step, 2 * step
    while step > max(1, adapters // 20):
        step //= 2
        if adapters + step <= MAX_ADAPTERS and meets_slo(adapters + step):
            adapters += step
    return CapacityEstimate(replicas=cluster.replicas, rate=rate, adapters=adapters)


def run_simulation(
    measured: Sequence[tuple[LoadCase, LoadMetrics]],
    cluster: Cluster,
    costs: EngineCosts,
    rates: Sequence[float],
    replicas: Sequence[int],
) -> SimulationReport:
    """Predict all measured loads, and estimate the capacity of clusters.

    Args:
        measured: The measured loads with their metrics.
        cluster: Size of an engine.
        costs: Costs of an engine.
        rates: Request rates of the estimates, in requests per second.
        replicas: Numbers of engines of the estimates.

    Returns:
        The report.
    """
    return SimulationReport(
        costs=costs,
        cluster=cluster,
        predictions=tuple(predict(case, metrics, cluster, costs) for case, metrics in measured),
        carried=tuple(
            estimate_capacity(cluster.model_copy(update={"replicas": number}), costs, rate)
            for number in replicas
            for rate in rates
        ),
    )


def to_tables(report: SimulationReport) -> list[Table]:
    """Format a report for a terminal.

    Args:
        report: The report.

    Returns:
        A table of the predictions and a table of the estimates.
    """
    errors = Table(
        "load", "tokens/s predicted", "measured", "error", "TTFT p95 predicted", "measured", "error", box=None
    )
    for prediction in report.predictions:
        predicted, measured = prediction.predicted.first_s, prediction.measured.first_s
        errors.add_row(
            prediction.name,
            f"{prediction.predicted.tokens_per_s:.1f}",
            f"{prediction.measured.tokens_per_s:.1f}",
            f"{prediction.throughput_error:.1%}",
            f"{predicted.p95:.2f} s" if predicted else "-",
            f"{measured.p95:.2f} s" if measured else "-",
            "-" if prediction.ttft_error is None else f"{prediction.ttft_error:.1%}",
        )
    capacity = Table("engines", "requests/s", f"adapters, {MIN_SLO_SHARE:.0%} in time", box=None)
    for estimate in report.carried:
        count = f"more than {estimate.adapters}" if estimate.adapters >= MAX_ADAPTERS // 2 else str(estimate.adapters)
        cell = count if estimate.adapters else "none: the rate is too high"
        capacity.add_row(str(estimate.replicas), f"{estimate.rate:g}", cell)
    return [errors, capacity]
