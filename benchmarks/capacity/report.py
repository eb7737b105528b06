"""Format the report of the capacity benchmark: a table of medians with their ranges, and a chart.

``bench`` and ``looper.cli.bench`` call it.
"""

from pathlib import Path

from rich.table import Table

from looper.benchmarks.capacity.results import CapacityReport, CapacityRow

_COLUMNS = (
    "peer",
    "load",
    "adapters",
    "requests/s",
    "tokens/s",
    "TTFT p50",
    "p95",
    "p99",
    "ITL p50",
    "p99",
    "in SLO",
    "found",
    "stolen",
)


def _cells(row: CapacityRow) -> tuple[str, ...]:
    metrics = row.figures
    ttft, itl = metrics.first_s, metrics.between_s
    load = row.kind if row.all_answered_s is None else f"{row.kind}: all answered in {row.all_answered_s:.1f} s"
    return (
        row.peer,
        load,
        str(row.adapters),
        f"{metrics.requests_per_s:.2f}",
        f"{metrics.tokens_per_s:.1f} ({row.tokens_per_s[0]:.1f} to {row.tokens_per_s[1]:.1f})",
        *((f"{ttft.p50:.2f} s", _ttft_p95(row), f"{ttft.p99:.2f} s") if ttft else ("", "", "")),
        *((f"{1000 * itl.p50:.0f} ms", f"{1000 * itl.p99:.0f} ms") if itl else ("", "")),
        f"{metrics.slo:.0%}",
        ", ".join(f"{tier} {count}" for tier, count in sorted(metrics.found.items())),
        f"{row.stolen:.0%}",
    )


def _ttft_p95(row: CapacityRow) -> str:
    ttft, p95_range = row.figures.first_s, row.first_p95_s
    return f"{ttft.p95:.2f} s ({p95_range[0]:.2f} to {p95_range[1]:.2f})" if ttft and p95_range else ""


def to_table(report: CapacityReport) -> Table:
    """Format a report for a terminal.

    Args:
        report: The report.

    Returns:
        A table with one row per load and peer.
    """
    table = Table(*_COLUMNS, box=None)
    for row in report.rows:
        table.add_row(*_cells(row))
    return table


def to_markdown(report: CapacityReport) -> str:
    """Format a report as Markdown.

    Args:
        report: The report.

    Returns:
        The table, the ratios and the metrics of the experiments.
    """
    lines = [f"| {' | '.join(_COLUMNS)} |", f"|{' --- |' * len(_COLUMNS)}"]
    lines += [f"| {' | '.join(_cells(row))} |" for row in report.rows]
    lines += ["", f"Machine: {report.machine}", "", *(f"- {name}: {value}" for name, value in report.ratios.items())]
    for name, metrics in report.promises.items():
        lines += ["", f"### {name}", "", *(f"- {metric}: {value:.4g}" for metric, value in metrics.items())]
    return "\n".join(lines) + "\n"


def plot(report: CapacityReport, file: Path) -> None:
    """Draw the throughput of the full load and the TTFT p95 of the steady load, with a line for each peer.

    Args:
        report: The report.
        file: The PNG file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    full, steady = figure.subplots(1, 2)
    for peer in dict.fromkeys(row.peer for row in report.rows):
        peer_rows = [row for row in report.rows if row.peer == peer]
        rows = [row for row in peer_rows if row.kind == "full"]
        full.plot([row.adapters for row in rows], [row.figures.tokens_per_s for row in rows], marker="o", label=peer)
        rows = [row for row in peer_rows if row.kind == "steady" and row.figures.first_s]
        p95 = [row.figures.first_s.p95 for row in rows if row.figures.first_s]
        steady.plot([row.adapters for row in rows], p95, marker="o", label=peer)
    for axes, title in (
        (full, "tokens per second, full load"),
        (steady, "TTFT p95 in seconds, steady load"),
    ):
        axes.set(xscale="log", xlabel="adapters", title=title)
        axes.grid(alpha=0.3)
    full.set_ylim(bottom=0)
    steady.set_yscale("log")  # one peer needs seconds where another needs minutes
    full.legend()
    figure.savefig(file, dpi=120)
