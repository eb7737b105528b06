"""Draw the charts of the forgetting benchmark with matplotlib. ``bench.py`` calls it after the report is built."""

from collections.abc import Sequence
from pathlib import Path

from looper.benchmarks.forgetting.ceiling_report import HELD, CeilingReport
from looper.benchmarks.forgetting.plan import RunKind
from looper.benchmarks.forgetting.power_law import Point, PowerLaw
from looper.benchmarks.forgetting.report import ForgettingReport
from looper.benchmarks.forgetting.summary import best_rates


def draw_matrices(report: ForgettingReport, session_names: Sequence[str], file: Path) -> None:
    """Draw the success matrix of each strategy as a heat map.

    Args:
        report: The report.
        session_names: Labels of the columns, one per session.
        file: PNG file to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = [row for row in best_rates(report.rows) if row.matrix]
    columns = min(4, len(rows))
    lines = -(-len(rows) // columns)
    figure, grid = plt.subplots(
        lines, columns, figsize=(3.1 * columns, 2.9 * lines), squeeze=False, layout="constrained"
    )
    for axes in grid.flat[len(rows) :]:
        axes.set_visible(False)
    image = None
    for axes, row in zip(grid.flat, rows, strict=False):
        image = axes.imshow(row.matrix, vmin=0, vmax=1, cmap="YlGnBu")
        for i, values in enumerate(row.matrix):
            for j, value in enumerate(values):
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", size=7, color="w" if value > 0.6 else "k")
        axes.set_title(f"{row.label}\nACC {row.figures['accuracy'].mean:.2f}", fontsize=9)
        axes.set_xticks(range(len(session_names)), session_names, fontsize=7, rotation=30)
        single = "never" if row.kind is RunKind.BASE else "all at once"
        rounds = list(session_names) if len(row.matrix) > 1 else [single]
        axes.set_yticks(range(len(rounds)), rounds, fontsize=7)
        axes.set_ylabel("trained" if len(rounds) == 1 else "after", fontsize=8)
    figure.colorbar(image, ax=grid, label="held-out success", shrink=0.6)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def draw_power_law(points: Sequence[Point], law: PowerLaw, file: Path) -> None:
    """Draw the measured and the fitted forgetting against the number of steps, with one color per rank.

    Args:
        points: The measurements.
        law: The law that was fitted to them.
        file: PNG file to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    max_steps = max(point.steps for point in points)
    steps = [max_steps * i / 100 for i in range(101)]
    for number, rank in enumerate(sorted({point.rank for point in points})):
        of_rank = [point for point in points if point.rank == rank]
        color = f"C{number}"
        axes.plot([p.steps for p in of_rank], [p.forgetting for p in of_rank], "o", color=color, label=f"rank {rank}")
        axes.plot(steps, [law.predict(n, rank) for n in steps], color=color, linewidth=1)
    axes.set_xlabel("optimizer steps per session")
    axes.set_ylabel("forgetting: rise of held-out loss, nats per token")
    axes.set_title(f"{law.c:.3g} ((1 + N r^{law.d:.2f} / {law.a:.3g})^{law.b:.2f} - 1), R² {law.r2:.2f}", fontsize=10)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def draw_ceiling(report: CeilingReport, file: Path) -> None:
    """Draw recall against the number of rules for each rank, and the rules that each rank holds.

    Args:
        report: The report.
        file: PNG file to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (recall, capacity) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for number, each in enumerate(report.capacities):
        runs = [run for run in report.runs if run.rank == each.rank]
        color = f"C{number}"
        recall.plot(
            [run.rules for run in runs], [run.recall for run in runs], "o-", color=color, label=f"rank {each.rank}"
        )
        marker = {"measured": "o", "at least": "^", "below": "v"}[each.kind]
        errors = [[max(each.rules - each.low, 0.0)], [max(each.high - each.rules, 0.0)]]
        capacity.errorbar([each.rank], [each.rules], errors, fmt=marker, color=color, capsize=3)
    recall.axhline(HELD, color="0.6", linewidth=1, linestyle="--")
    recall.set(xscale="log", xlabel="random rules, trained together", ylabel="recalled exactly", ylim=(-0.02, 1.02))
    recall.legend(frameon=False)
    capacity.set(xscale="log", yscale="log", xlabel="rank", ylabel=f"rules of which {HELD:.0%} are recalled")
    ranks, counts = [each.rank for each in report.capacities], sorted({run.rules for run in report.runs})
    notes = []
    if report.law is not None:
        capacity.plot(ranks, [report.law.predict(rank) for rank in ranks], color="0.4", linewidth=1)
        law = report.law
        notes.append(f"{law.factor:.3g} rank^{law.exponent:.2f}, 95 %: {law.low:.2f} to {law.high:.2f}")
    if any(each.kind != "measured" for each in report.capacities):
        notes.append("triangles: the ceiling is beyond the rules that were tried")
    capacity.set_title("\n".join(notes), fontsize=10)
    recall.set_xticks(counts, map(str, counts))
    capacity.set_xticks(ranks, map(str, ranks))
    capacity.set_yticks(counts, map(str, counts))
    for axes in (recall, capacity):
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120)
    plt.close(figure)
