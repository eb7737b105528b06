"""Summarize the results of the forgetting benchmark: one row per strategy and recipe, over seeds.

``report.py`` makes the report of these rows, and ``bench.py`` chooses the runs of phase 2 by them. The metrics come
from ``metrics.py``.
"""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev

from pydantic import BaseModel, ConfigDict

from looper.benchmarks.forgetting import metrics
from looper.benchmarks.forgetting.plan import NO_STRATEGY, ForgettingRun, RunKind, base_model_run
from looper.benchmarks.forgetting.power_law import Point
from looper.benchmarks.forgetting.run import RoundEvaluation, RunResult, mean_success
from looper.gym.workplaces import WORKPLACES

METRIC_LABELS = {
    "accuracy": "ACC",
    "forgetting": "F",
    "backward_transfer": "BWT",
    "forward_transfer": "FWT",
    "learning_curve": "AULC",
    "cl_f": "CL-F1",
    "loss_forgetting": "F of loss",
}
"""Names of the metrics in ``StrategySummary.figures``, with their column headings. The last is in nats per token."""


class Spread(BaseModel):
    """Mean and standard deviation of a metric over seeds."""

    model_config = ConfigDict(frozen=True)

    mean: float
    """Mean over the seeds."""
    std: float | None
    """Sample standard deviation, or None for a single seed."""

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if self.std is None else f"{self.mean:.3f} ± {self.std:.3f}"


class StrategySummary(BaseModel):
    """Results of one strategy or bound with one recipe."""

    model_config = ConfigDict(frozen=True)

    kind: RunKind
    """Kind of the runs."""
    strategy: str
    """Name of the strategy."""
    learning_rate: float
    """Learning rate of the recipe."""
    rank: int
    """LoRA rank of the recipe."""
    epochs: int
    """Epochs of the recipe."""
    seeds: tuple[int, ...]
    """Seeds of the runs that did not fail."""
    figures: dict[str, Spread]
    """The metrics, by the names in ``METRIC_LABELS``. A bound with one evaluation lacks those that need several."""
    seconds: float
    """Mean training time of a run, in seconds."""
    matrix: tuple[tuple[float, ...], ...]
    """Success ``[rounds, sessions]``, the mean over seeds."""
    failures: tuple[str, ...]
    """Reasons of the failed runs."""

    @property
    def label(self) -> str:
        """Name in tables and charts."""
        if self.kind is RunKind.SEQUENCE:
            return f"{NO_STRATEGY} (lower bound)" if self.strategy == NO_STRATEGY else self.strategy
        return {RunKind.BASE: "base model", RunKind.MULTI_TASK: "multi-task (upper bound)"}[self.kind]

    @property
    def sort_key(self) -> tuple[float, float]:
        """Sort key that puts the best row first, and a recipe that failed with any seed last."""
        if self.failures or "accuracy" not in self.figures:
            return 1.0, 0.0
        forgetting = self.figures.get("forgetting")
        return -self.figures["accuracy"].mean, forgetting.mean if forgetting else 0.0


def summarize_results(results: Iterable[RunResult]) -> list[StrategySummary]:
    """Summarize the runs of each strategy, bound and recipe over their seeds.

    Args:
        results: Results of runs from one source.

    Returns:
        One row per strategy, bound and recipe. The bounds come first, then the best strategies.
    """
    results = list(results)
    base_success = {
        result.run.key: success_matrix(result)[0]
        for result in results
        if result.run.kind is RunKind.BASE and result.rows
    }
    groups: dict[str, list[RunResult]] = {}
    for result in results:
        unseeded = result.run.model_copy(update={"recipe": result.run.recipe.model_copy(update={"seed": 0})})
        groups.setdefault(unseeded.key, []).append(result)
    kinds = list(RunKind)
    rows = [_summarize_group(group, base_success) for group in groups.values()]
    return sorted(rows, key=lambda row: (kinds.index(row.kind), row.strategy != NO_STRATEGY, row.sort_key))


def best_rates(rows: Iterable[StrategySummary]) -> list[StrategySummary]:
    """Select each strategy and bound with its best learning rate.

    A learning rate with more seeds is preferred to one with fewer, because a lucky single seed must not beat a mean
    over several.

    Args:
        rows: The rows of ``summarize_results``.

    Returns:
        The selected rows, in the order of ``rows``. If two rates are equal, the first one is selected.
    """
    best: dict[tuple[RunKind, str, int, int], StrategySummary] = {}
    for row in rows:
        key = row.kind, row.strategy, row.rank, row.epochs
        best[key] = min(best.get(key, row), row, key=lambda candidate: (-len(candidate.seeds), candidate.sort_key))
    return list(best.values())


def find_leaders(results: Iterable[RunResult], count: int) -> list[str]:
    """Return the best strategies, without the lower bound and without failed ones.

    Args:
        results: Results of phase 1.
        count: Maximum number of strategies.

    Returns:
        Names of strategies, the best first.
    """
    rows = [
        row
        for row in best_rates(summarize_results(results))
        if row.kind is RunKind.SEQUENCE and row.strategy != NO_STRATEGY
    ]
    return [row.strategy for row in sorted(rows, key=lambda row: row.sort_key) if not row.failures][:count]


def runs_at_best_rate(results: Iterable[RunResult]) -> list[ForgettingRun]:
    """Return the run of each strategy and bound that has its best learning rate.

    Args:
        results: Results with one seed.

    Returns:
        One run per strategy and bound.
    """
    results = list(results)
    best = {(row.kind, row.strategy, row.learning_rate) for row in best_rates(summarize_results(results))}
    runs = [result.run for result in results]
    return [run for run in runs if (run.kind, run.recipe.strategy, run.learning_rate) in best]


def power_law_points(results: Iterable[RunResult]) -> list[Point]:
    """Return the forgetting of complete runs, with their steps per session and their rank.

    Forgetting is the rise of the held-out loss here, not the loss of success. The power law was found for the loss, and
    success on a few tasks changes in jumps.

    Args:
        results: Results of phase 3.

    Returns:
        One point per run that did not fail.
    """
    return [
        Point(
            steps=round(fmean(row.steps for row in result.rows)),
            rank=result.run.recipe.rank,
            forgetting=metrics.forgetting(_negative_losses(result.rows)),
        )
        for result in results
        if result.failure is None
    ]


def success_matrix(result: RunResult) -> list[list[float]]:
    """Return the success of a run on every session after every training round.

    Args:
        result: Result of a run.

    Returns:
        ``[rounds, sessions]``: the share of solved tasks in the gym, the share of correct tool calls with real tenants.
        Of the multi-task bound, only its best round.
    """
    in_gym = result.run.source in WORKPLACES
    is_bound = result.run.kind is RunKind.MULTI_TASK
    rows = [max(result.rows, key=mean_success)] if is_bound and result.rows else result.rows
    return [
        [score.solved / score.episodes if in_gym else score.right / score.calls for score in row.scores] for row in rows
    ]


def _negative_losses(rows: Sequence[RoundEvaluation]) -> list[list[float]]:
    """Return minus the loss, ``[rounds, sessions]``, because the metrics need a measure where higher is better."""
    return [[-score.loss for score in row.scores] for row in rows]


def _summarize_group(group: Sequence[RunResult], base_success: Mapping[str, list[float]]) -> StrategySummary:
    """Summarize runs that differ only in the seed. ``base_success`` has the success before training, by run key."""
    run = group[0].run
    complete = [result for result in group if result.failure is None]
    by_seed = [_compute_metrics(result, base_success.get(base_model_run(result.run).key)) for result in complete]
    shared = [name for name in METRIC_LABELS if by_seed and all(name in values for values in by_seed)]
    return StrategySummary(
        kind=run.kind,
        strategy=run.recipe.strategy,
        learning_rate=run.learning_rate,
        rank=run.recipe.rank,
        epochs=run.recipe.epochs,
        seeds=tuple(sorted(result.run.recipe.seed for result in complete)),
        figures={name: _spread([values[name] for values in by_seed]) for name in shared},
        seconds=fmean(sum(row.learning_s for row in result.rows) for result in complete) if complete else 0.0,
        matrix=_mean_matrix([success_matrix(result) for result in complete]),
        failures=tuple(result.failure for result in group if result.failure is not None),
    )


def _compute_metrics(result: RunResult, base_success: list[float] | None) -> dict[str, float]:
    a = success_matrix(result)
    values = {"accuracy": metrics.average_accuracy(a)}
    if len(a) < 2:
        return values
    if base_success is not None:
        values["forward_transfer"] = metrics.forward_transfer(a, base_success)
    return values | {
        "forgetting": metrics.forgetting(a),
        "backward_transfer": metrics.backward_transfer(a),
        "learning_curve": metrics.area_under_learning_curve(a),
        "cl_f": metrics.cl_f(a),
        "loss_forgetting": metrics.forgetting(_negative_losses(result.rows)),
    }


def _spread(values: Sequence[float]) -> Spread:
    return Spread(mean=fmean(values), std=stdev(values) if len(values) > 1 else None)


def _mean_matrix(matrices: Sequence[Sequence[Sequence[float]]]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(map(fmean, zip(*rows, strict=True))) for rows in zip(*matrices, strict=True))
