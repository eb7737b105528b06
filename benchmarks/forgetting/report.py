"""What the runs say: a table, heat maps, the power law, and JSON.

A row is one strategy in one recipe, with the mean and the spread over its seeds. The table shows each strategy at its
best learning rate, by accuracy in the end; all of them are in the JSON. The default recipe is the strategy with the
highest accuracy in the end among those with the most seeds, of two that are equal the one that forgets less.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from pydantic import BaseModel, ConfigDict
from rich.table import Table

from looper.benchmarks.forgetting import metrics
from looper.benchmarks.forgetting.plan import NONE, ForgettingRun, RunKind, base_of
from looper.benchmarks.forgetting.power_law import Point, PowerLaw
from looper.benchmarks.forgetting.run import ForgettingRow, RunResult
from looper.gym.workplaces import WORKPLACES

FIGURES = {
    "accuracy": "ACC",
    "forgetting": "F",
    "backward_transfer": "BWT",
    "forward_transfer": "FWT",
    "learning_curve": "AULC",
    "cl_f": "CL-F1",
    "loss_forgetting": "F of loss",
}
"""Of ``benchmarks/forgetting/metrics.py``, as fields here and as the table's heads; the last is in nats per token."""


class Spread(BaseModel):
    """Over seeds: the mean, and the sample standard deviation, None of a single seed."""

    model_config = ConfigDict(frozen=True)

    mean: float
    std: float | None

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if self.std is None else f"{self.mean:.3f} ± {self.std:.3f}"


class StrategySummary(BaseModel):
    """One strategy, or bound, in one recipe. A figure that needs more than one evaluation is left out."""

    model_config = ConfigDict(frozen=True)

    kind: RunKind
    strategy: str
    learning_rate: float
    rank: int
    epochs: int
    seeds: tuple[int, ...]
    figures: dict[str, Spread]
    """By the names in ``FIGURES``."""
    seconds: float
    """Of learning, per run."""
    matrix: tuple[tuple[float, ...], ...]
    """``a[i][j]``, the mean over seeds."""
    failures: tuple[str, ...]

    @property
    def label(self) -> str:
        if self.kind is RunKind.SEQUENCE:
            return f"{NONE} (lower bound)" if self.strategy == NONE else self.strategy
        return {RunKind.BASE: "base model", RunKind.MULTI_TASK: "multi-task (upper bound)"}[self.kind]

    @property
    def standing(self) -> tuple[float, float]:
        """Sorts: the best first, and a recipe that failed with any seed last."""
        if self.failures or "accuracy" not in self.figures:
            return 1.0, 0.0
        forgotten = self.figures.get("forgetting")
        return -self.figures["accuracy"].mean, forgotten.mean if forgotten else 0.0


class ForgettingReport(BaseModel):
    """``looper bench forgetting --json``."""

    model_config = ConfigDict(frozen=True)

    machine: str
    settings: dict[str, str | int | float]
    rows: list[StrategySummary]
    ratios: dict[str, float]
    """``default_forgetting``: F of the default recipe; ``default_accuracy_over_multi_task``: its ACC over the upper
    bound's; ``power_law_*``: what was fitted."""


def report(
    results: Sequence[RunResult], machine: str, settings: Mapping[str, str | int | float], law: PowerLaw | None = None
) -> ForgettingReport:
    """Sum up ``results`` of one source; ``law`` is what was fitted to them."""
    rows = lines(results)
    ratios = _ratios(best_of_each(rows))
    if law is not None:
        ratios |= {f"power_law_{name}": value for name, value in law._asdict().items()}
    return ForgettingReport(machine=machine, settings=dict(settings), rows=rows, ratios=ratios)


def lines(results: Iterable[RunResult]) -> list[StrategySummary]:
    """A line for each strategy, bound and recipe: the bounds first, then the best first."""
    every = list(results)
    before = {result.run.key: matrix(result)[0] for result in every if result.run.kind is RunKind.BASE and result.rows}
    groups: dict[str, list[RunResult]] = {}
    for result in every:
        unseeded = result.run.model_copy(update={"recipe": result.run.recipe.model_copy(update={"seed": 0})})
        groups.setdefault(unseeded.key, []).append(result)
    order = list(RunKind)
    found = [_line(group, before) for group in groups.values()]
    return sorted(found, key=lambda line: (order.index(line.kind), line.strategy != NONE, line.standing))


def best_of_each(rows: Iterable[StrategySummary]) -> list[StrategySummary]:
    """Each strategy and bound at its best learning rate, in the order of ``rows``; of equals, the first.

    Rates with most seeds come before all others: luck with one does not beat a mean over several.
    """
    best: dict[tuple[RunKind, str, int, int], StrategySummary] = {}
    for line in rows:
        key = line.kind, line.strategy, line.rank, line.epochs
        best[key] = min(best.get(key, line), line, key=lambda candidate: (-len(candidate.seeds), candidate.standing))
    return list(best.values())


def leaders(results: Iterable[RunResult], count: int) -> list[str]:
    """The best ``count`` strategies, without the lower bound."""
    rows = [line for line in best_of_each(lines(results)) if line.kind is RunKind.SEQUENCE and line.strategy != NONE]
    return [line.strategy for line in sorted(rows, key=lambda line: line.standing) if not line.failures][:count]


def at_best_rate(results: Iterable[RunResult]) -> list[ForgettingRun]:
    """Of ``results`` of one seed: the run of each strategy and bound at its best learning rate."""
    every = list(results)
    best = {(line.kind, line.strategy, line.learning_rate) for line in best_of_each(lines(every))}
    runs = [result.run for result in every]
    return [run for run in runs if (run.kind, run.recipe.strategy, run.recipe.learning_rate) in best]


def points(results: Iterable[RunResult]) -> list[Point]:
    """Forgetting of whole runs against steps per session and rank, as the rise of the held-out loss.

    The loss and not success: the power law was found for it, and success on a few tasks moves in jumps.
    """
    return [
        Point(
            steps=round(fmean(row.steps for row in result.rows)),
            rank=result.run.recipe.rank,
            forgetting=metrics.forgetting(_losses(result.rows)),
        )
        for result in results
        if result.failure is None
    ]


def matrix(result: RunResult) -> list[list[float]]:
    """``a[i][j]``: the share of tasks solved in the gym; of calls that were right with real tenants."""
    in_gym = result.run.source in WORKPLACES
    return [
        [score.solved / score.episodes if in_gym else score.right / score.calls for score in row.scores]
        for row in result.rows
    ]


def _losses(rows: Sequence[ForgettingRow]) -> list[list[float]]:
    """Minus the loss, which is better when higher, as the metrics ask."""
    return [[-score.loss for score in row.scores] for row in rows]


def _line(group: Sequence[RunResult], before: Mapping[str, list[float]]) -> StrategySummary:
    run = group[0].run
    whole = [result for result in group if result.failure is None]
    each = [_figures(result, before.get(base_of(result.run).key)) for result in whole]
    shared = [name for name in FIGURES if each and all(name in figures for figures in each)]
    return StrategySummary(
        kind=run.kind,
        strategy=run.recipe.strategy,
        learning_rate=run.recipe.learning_rate,
        rank=run.recipe.rank,
        epochs=run.recipe.epochs,
        seeds=tuple(sorted(result.run.recipe.seed for result in whole)),
        figures={name: _spread([figures[name] for figures in each]) for name in shared},
        seconds=fmean(sum(row.learning_s for row in result.rows) for result in whole) if whole else 0.0,
        matrix=_mean([matrix(result) for result in whole]),
        failures=tuple(result.failure for result in group if result.failure is not None),
    )


def _figures(result: RunResult, before: list[float] | None) -> dict[str, float]:
    a = matrix(result)
    figures = {"accuracy": metrics.average_accuracy(a)}
    if len(a) < 2:
        return figures
    if before is not None:
        figures["forward_transfer"] = metrics.forward_transfer(a, before)
    return figures | {
        "forgetting": metrics.forgetting(a),
        "backward_transfer": metrics.backward_transfer(a),
        "learning_curve": metrics.area_under_learning_curve(a),
        "cl_f": metrics.cl_f(a),
        "loss_forgetting": metrics.forgetting(_losses(result.rows)),
    }


def _ratios(rows: Sequence[StrategySummary]) -> dict[str, float]:
    bounds = [line for line in rows if line.kind is RunKind.MULTI_TASK and line.figures]
    learned = [line for line in rows if line.kind is RunKind.SEQUENCE and line.figures]
    if not bounds or not learned:
        return {}
    most = max(len(line.seeds) for line in learned)  # luck with one seed beats nobody's mean over several
    default = min((line for line in learned if len(line.seeds) == most), key=lambda line: line.standing)
    ratios = {"default_forgetting": default.figures["forgetting"].mean}
    if upper := bounds[0].figures["accuracy"].mean:
        ratios["default_accuracy_over_multi_task"] = default.figures["accuracy"].mean / upper
    return ratios


def _spread(values: Sequence[float]) -> Spread:
    return Spread(mean=fmean(values), std=stdev(values) if len(values) > 1 else None)


def _mean(matrices: Sequence[Sequence[Sequence[float]]]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(map(fmean, zip(*rows, strict=True))) for rows in zip(*matrices, strict=True))


_HEADS = ("strategy", "rate", "rank", "epochs", "seeds", *FIGURES.values(), "s")


def _cells(line: StrategySummary) -> list[str]:
    recipe = (f"{line.learning_rate:g}", str(line.rank), str(line.epochs))
    cells = [line.label, *(("", "", "") if line.kind is RunKind.BASE else recipe), str(len(line.seeds))]
    cells += [str(line.figures.get(name, "")) for name in FIGURES]
    return [*cells, f"failed: {line.failures[0]}" if line.failures else f"{line.seconds:.0f}"]


def to_table(found: ForgettingReport) -> Table:
    """For the terminal."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, head in enumerate(_HEADS):
        table.add_column(head, justify="right" if number else "left")
    for line in best_of_each(found.rows):
        table.add_row(*_cells(line))
    return table


def to_markdown(found: ForgettingReport) -> str:
    """For the docs: machine and settings, then the table."""
    settings = ", ".join(f"{name} {value}" for name, value in found.settings.items())
    body = [f"| {' | '.join(_cells(line))} |" for line in best_of_each(found.rows)]
    head = [f"| {' | '.join(_HEADS)} |", f"| --- |{' ---: |' * (len(_HEADS) - 1)}"]
    ratios = [f"- {name}: {value:.3g}" for name, value in found.ratios.items()]
    return "\n".join([f"{found.machine}; {settings}", "", *head, *body, "", *ratios]) + "\n"


def draw_matrices(found: ForgettingReport, names: Sequence[str], file: Path) -> None:
    """Small multiples: for each strategy what it can do (columns: ``names`` of sessions) after each session (rows)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown = [line for line in best_of_each(found.rows) if line.matrix]
    across = min(4, len(shown))
    down = -(-len(shown) // across)
    figure, grid = plt.subplots(down, across, figsize=(3.1 * across, 2.9 * down), squeeze=False, layout="constrained")
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    image = None
    for axes, line in zip(grid.flat, shown, strict=False):
        image = axes.imshow(line.matrix, vmin=0, vmax=1, cmap="YlGnBu")
        for i, row in enumerate(line.matrix):
            for j, value in enumerate(row):
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", size=7, color="w" if value > 0.6 else "k")
        axes.set_title(f"{line.label}\nACC {line.figures['accuracy'].mean:.2f}", fontsize=9)
        axes.set_xticks(range(len(names)), names, fontsize=7, rotation=30)
        lessons = list(names) if len(line.matrix) > 1 else ["never" if line.kind is RunKind.BASE else "all at once"]
        axes.set_yticks(range(len(lessons)), lessons, fontsize=7)
        axes.set_ylabel("trained" if len(lessons) == 1 else "after", fontsize=8)
    figure.colorbar(image, ax=grid, label="held-out success", shrink=0.6)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def draw_power_law(measured: Sequence[Point], law: PowerLaw, file: Path) -> None:
    """Forgetting against steps, a colour per rank: what was measured, and the law."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    most = max(point.steps for point in measured)
    for number, rank in enumerate(sorted({point.rank for point in measured})):
        own = [point for point in measured if point.rank == rank]
        colour = f"C{number}"
        axes.plot([p.steps for p in own], [p.forgetting for p in own], "o", color=colour, label=f"rank {rank}")
        steps = [most * i / 100 for i in range(101)]
        axes.plot(steps, [law.at(n, rank) for n in steps], color=colour, linewidth=1)
    axes.set_xlabel("optimiser steps per session")
    axes.set_ylabel("forgetting: rise of held-out loss, nats per token")
    axes.set_title(f"{law.c:.3g} ((1 + N r^{law.d:.2f} / {law.a:.3g})^{law.b:.2f} - 1), R² {law.r2:.2f}", fontsize=10)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120)
    plt.close(figure)
