"""``looper bench capacity``: put the same loads on Looper and on the alternatives to it, in one run.

``looper.cli.bench`` calls ``bench`` and, with ``--simulate``, ``simulate_capacity``.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from looper.benchmarks.capacity.experiments import FRESH_ADAPTERS
from looper.benchmarks.capacity.fixtures import CapacityFixtures
from looper.benchmarks.capacity.load.cases import ADAPTER_COUNTS, COLD_ADAPTERS, ROUNDS
from looper.benchmarks.capacity.measurements import CapacityMeasurements
from looper.benchmarks.capacity.peers.peers import CLUSTER
from looper.benchmarks.capacity.report import plot, to_markdown
from looper.benchmarks.capacity.results import CapacityReport, compute_ratios
from looper.benchmarks.capacity.simulation.predict import SimulationReport, run_simulation


def bench(
    out: Path,
    base: str,
    model_dir: Path,
    *,
    peers: Sequence[str],
    counts: Sequence[int],
    seconds: float,
    machine: str,
    notify: Callable[[str], None],
) -> CapacityReport:
    """Run the measurements that are missing, and write the report.

    Args:
        out: Folder for the measurements, the adapters and the report.
        base: Name of the base model.
        model_dir: Folder of the base model.
        peers: Names of the peers.
        counts: Numbers of adapters, one load after another.
        seconds: Duration of each load.
        machine: Description of the machine, for the report.
        notify: Called with a line of text before each step.

    Returns:
        The report.
    """
    out.mkdir(parents=True, exist_ok=True)
    measurements = CapacityMeasurements(out, CapacityFixtures(out / "world", model_dir, base), seconds, notify)
    measurements.measure_peers(peers, counts)
    rows = measurements.load_rows()
    first_fresh = max(counts) + COLD_ADAPTERS * ROUNDS
    report = CapacityReport(
        machine=machine,
        settings={"base": base, "seconds": seconds},
        rows=tuple(rows),
        ratios=compute_ratios(rows),
        promises=measurements.run_experiments(first_fresh) if "looper" in peers else {},
    )
    (out / "capacity.json").write_text(report.model_dump_json(indent=1) + "\n")
    (out / "capacity.md").write_text(to_markdown(report))
    plot(report, out / "capacity.png")
    return report


def simulate_capacity(
    out: Path,
    base: str,
    model_dir: Path,
    *,
    seconds: float,
    rates: Sequence[float],
    replicas: Sequence[int],
    notify: Callable[[str], None],
) -> SimulationReport:
    """Predict how many adapters a cluster can serve, and compare predictions with measurements.

    Args:
        out: Folder with the measurements. The engine is calibrated unless the folder has its costs.
        base: Name of the base model.
        model_dir: Folder of the base model.
        seconds: Duration of each measured load.
        rates: Request rates to predict, in requests per second.
        replicas: Numbers of engines to predict.
        notify: Called with a line of text before each step.

    Returns:
        The report, which is also written to ``simulation.json``.
    """
    out.mkdir(parents=True, exist_ok=True)
    measurements = CapacityMeasurements(out, CapacityFixtures(out / "world", model_dir, base), seconds, notify)
    costs = measurements.calibrate_costs(CLUSTER, max(ADAPTER_COUNTS) + COLD_ADAPTERS * ROUNDS + FRESH_ADAPTERS)
    notify("simulation")
    report = run_simulation(measurements.load_measured_cases("looper"), CLUSTER, costs, rates, replicas)
    (out / "simulation.json").write_text(report.model_dump_json(indent=1) + "\n")
    return report
