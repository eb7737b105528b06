"""Format the report of the scale benchmark: tables and a chart. ``bench`` and ``looper.cli.bench`` call it."""

from pathlib import Path
from typing import Any

from rich.table import Table

from looper.benchmarks.scale.results import ScaleReport
from looper.benchmarks.scale.simulation.scenarios import ScenarioResult

_COLUMNS = (
    "scenario",
    "replicas",
    "gateways",
    "requests",
    "refused",
    "lost",
    "TTFT p50",
    "p95",
    "p99",
    "in memory",
    "disk",
    "store",
    "prefetches/s",
    "busiest/mean",
)


def _cells(row: ScenarioResult) -> tuple[str, ...]:
    return (
        row.scenario,
        str(row.replicas),
        str(row.gateways),
        str(row.requests),
        str(row.refused),
        str(row.lost),
        *(f"{value:.2f} s" for value in (row.ttft_p50_s, row.ttft_p95_s, row.ttft_p99_s)),
        *(f"{value:.1%}" for value in (row.memory_share, row.disk_share, row.store_share)),
        f"{row.prefetches_per_s:.1f}",
        f"{row.max_over_mean_load:.2f}",
    )


def to_tables(report: ScaleReport) -> list[Table]:
    """Format a report for a terminal.

    Args:
        report: The report.

    Returns:
        A table of the scenarios and one of the costs.
    """
    scenarios, costs = Table(*_COLUMNS, box=None), Table("measured", "size", "", "value", "", box=None)
    for row in report.scenarios.values():
        scenarios.add_row(*_cells(row))
    for cost in report.costs:
        costs.add_row(cost.what, f"{cost.size:,}", cost.unit_of_size, f"{cost.value:.4g}", cost.unit)
    return [scenarios, costs]


def to_markdown(report: ScaleReport) -> str:
    """Format a report as Markdown.

    Args:
        report: The report.

    Returns:
        The scenarios, the costs and the ratios.
    """
    lines = [f"| {' | '.join(_COLUMNS)} |", f"|{' --- |' * len(_COLUMNS)}"]
    lines += [f"| {' | '.join(_cells(row))} |" for row in report.scenarios.values()]
    lines += ["", "| measured | size | value |", "| --- | ---: | ---: |"]
    lines += [f"| {row.what} | {row.size:,} {row.unit_of_size} | {row.value:.4g} {row.unit} |" for row in report.costs]
    lines += ["", f"Machine: {report.machine}", "", *(f"- {name}: {value}" for name, value in report.ratios.items())]
    return "\n".join(lines) + "\n"


def plot(report: ScaleReport, file: Path) -> None:
    """Draw the cost of a choice, the loss of replicas, a day with autoscaling, and the number of gateways.

    Args:
        report: The report.
        file: The PNG file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.5), layout="constrained")
    (choice, loss), (day, gateways) = figure.subplots(2, 2)
    _plot_choice(report, choice)
    for name in ("a node dies", "a zone dies", "rolling restart"):
        if row := report.scenarios.get(name):
            at_s = [each.begin_s for each in row.intervals]
            loss.plot(at_s, [each.lost for each in row.intervals], marker=".", label=name)
    loss.set(title="requests that are lost, by the time of their arrival", xlabel="seconds", ylim=(0, None))
    if loss.get_lines():  # a quick run has none of these scenarios
        loss.legend()
    if row := report.scenarios.get("a day"):
        at_s = [each.begin_s for each in row.intervals]
        length_s = at_s[1] - at_s[0]
        day.plot(at_s, [each.requests / length_s for each in row.intervals], label="requests per second", alpha=0.6)
        day.plot(at_s, [each.replicas for each in row.intervals], label="replicas", drawstyle="steps-post")
        latency = day.twinx()
        latency.plot(at_s, [each.ttft_p95_s or 0 for each in row.intervals], color="tab:green")
        latency.set_ylabel("TTFT p95 in seconds", color="tab:green")
        day.set(title="a day with autoscaling, compressed", xlabel="seconds", ylim=(0, None))
        day.legend()
    rows = sorted(
        (row for name, row in report.scenarios.items() if name.endswith(" gateways")), key=lambda row: row.gateways
    )
    counts = [row.gateways for row in rows]
    gateways.plot(counts, [row.max_over_mean_load for row in rows], marker="o", label="busiest replica over the mean")
    gateways.plot(counts, [row.ttft_p99_s for row in rows], marker="o", label="TTFT p99 in seconds")
    gateways.set(title="gateways that share one load", xlabel="gateways", ylim=(0, None))
    gateways.legend()
    for axes in (choice, loss, day, gateways):
        axes.grid(alpha=0.3)
    figure.savefig(file, dpi=120)


def _plot_choice(report: ScaleReport, axes: Any) -> None:
    for what in ("choice by hashing and sorting all", "choice of a replica"):
        rows = [row for row in report.costs if row.what == what]
        axes.plot([row.size for row in rows], [row.value for row in rows], marker="o", label=what)
    axes.set(xscale="log", yscale="log", title="CPU microseconds per choice", xlabel="replicas")
    axes.legend()
