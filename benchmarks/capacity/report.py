"""The capacity benchmark for people: a table of medians with their spread, and a picture."""

from pathlib import Path

from rich.table import Table

from looper.benchmarks.capacity.bench import CapacityReport, CapacityRow

_HEADS = (
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
    figures = row.figures
    first, between = figures.first_s, figures.between_s
    load = row.kind if row.all_answered_s is None else f"{row.kind}: all answered in {row.all_answered_s:.1f} s"
    return (
        row.peer,
        load,
        str(row.adapters),
        f"{figures.requests_per_s:.2f}",
        f"{figures.tokens_per_s:.1f} ({row.tokens_per_s[0]:.1f} to {row.tokens_per_s[1]:.1f})",
        *((f"{first.p50:.2f} s", _spread(row), f"{first.p99:.2f} s") if first else ("", "", "")),
        *((f"{1000 * between.p50:.0f} ms", f"{1000 * between.p99:.0f} ms") if between else ("", "")),
        f"{figures.slo:.0%}",
        ", ".join(f"{where} {count}" for where, count in sorted(figures.found.items())),
        f"{row.stolen:.0%}",
    )


def _spread(row: CapacityRow) -> str:
    first, spread = row.figures.first_s, row.first_p95_s
    return f"{first.p95:.2f} s ({spread[0]:.2f} to {spread[1]:.2f})" if first and spread else ""


def to_table(report: CapacityReport) -> Table:
    table = Table(*_HEADS, box=None)
    for row in report.rows:
        table.add_row(*_cells(row))
    return table


def to_markdown(report: CapacityReport) -> str:
    lines = [f"| {' | '.join(_HEADS)} |", f"|{' --- |' * len(_HEADS)}"]
    lines += [f"| {' | '.join(_cells(row))} |" for row in report.rows]
    lines += ["", f"Machine: {report.machine}", "", *(f"- {name}: {value}" for name, value in report.ratios.items())]
    for name, figures in report.promises.items():
        lines += ["", f"### {name}", "", *(f"- {figure}: {value:.4g}" for figure, value in figures.items())]
    return "\n".join(lines) + "\n"


def plot(report: CapacityReport, file: Path) -> None:
    """Throughput at full load and TTFT p95 at the steady one, over the number of adapters, a line for each peer."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    full, steady = figure.subplots(1, 2)
    for peer in dict.fromkeys(row.peer for row in report.rows):
        of_peer = [row for row in report.rows if row.peer == peer]
        there = [row for row in of_peer if row.kind == "full"]
        full.plot([row.adapters for row in there], [row.figures.tokens_per_s for row in there], marker="o", label=peer)
        there = [row for row in of_peer if row.kind == "steady" and row.figures.first_s]
        p95 = [row.figures.first_s.p95 for row in there if row.figures.first_s]
        steady.plot([row.adapters for row in there], p95, marker="o", label=peer)
    for axes, what in (
        (full, "tokens per second, more asked than can be answered"),
        (steady, "TTFT p95 in seconds, steady load"),
    ):
        axes.set(xscale="log", xlabel="adapters", title=what)
        axes.grid(alpha=0.3)
    full.set_ylim(bottom=0)
    steady.set_yscale("log")  # one peer's seconds are another's minutes
    full.legend()
    figure.savefig(file, dpi=120)
