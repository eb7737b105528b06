"""Report a stream: what was known at the end and in between, and what each session cost.

``bench.py`` builds the report of the results of ``plan_stream``. A run that is not finished is reported as far as it
came.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean

from pydantic import BaseModel, ConfigDict
from rich.table import Table

from looper.benchmarks.forgetting import stream_metrics
from looper.benchmarks.forgetting.plan import NO_STRATEGY, RunKind
from looper.benchmarks.forgetting.run import RoundEvaluation, RunResult
from looper.benchmarks.forgetting.summary import success_matrix

COST_SESSIONS = 5
"""Costs of early and late sessions are means over so many, because sessions have different numbers of tasks."""


class StreamSummary(BaseModel):
    """Results of one strategy on a stream."""

    model_config = ConfigDict(frozen=True)

    strategy: str
    """Name of the strategy."""
    epochs: int
    """Epochs of the recipe."""
    sessions: int
    """Number of sessions that were trained."""
    accuracy: float
    """ACC: mean success on all sessions at the end."""
    accuracy_over_bound: float | None
    """ACC divided by that of the multi-task bound, if that was trained."""
    forgetting: float
    """F: mean drop of success from the best evaluation of a session to the last one."""
    worst_dip: float
    """Largest drop of one session's success from its best, after any session."""
    worst_mean_dip: float
    """The same of the mean over all sessions so far."""
    early_plasticity: float
    """Mean success directly after training, over the first fifth of the sessions."""
    late_plasticity: float
    """The same over the last fifth."""
    tokens: int
    """Trained tokens of all sessions."""
    seconds: float
    """Training time of all sessions, in seconds."""
    tokens_over_none: float | None
    """Tokens of all sessions over those of the same sessions without a strategy."""
    seconds_over_none: float | None
    """The same of the training time."""
    late_over_early_tokens: float
    """Tokens of the last ``COST_SESSIONS`` sessions over those of as many around the fifth."""
    mean_success: tuple[tuple[int, float], ...]
    """Number of trained sessions, and mean success on all of them, where all were evaluated."""


class StreamReport(BaseModel):
    """Report of ``looper bench forgetting --sessions N --json``."""

    model_config = ConfigDict(frozen=True)

    machine: str
    """Description of the machine."""
    settings: dict[str, str | int | float]
    """Settings that all runs share."""
    bound_accuracy: float | None
    """Success of the multi-task bound at its best round, if it was trained."""
    bound_rounds: int
    """Rounds that the multi-task bound was trained."""
    rows: list[StreamSummary]
    """One row per strategy."""


def build_stream_report(
    results: Sequence[RunResult], machine: str, settings: Mapping[str, str | int | float]
) -> StreamReport:
    """Build the report of the results.

    Args:
        results: Results of ``plan_stream``, finished or with at least two rounds.
        machine: Description of the machine.
        settings: Settings that all runs share.

    Returns:
        The report.
    """
    bounds = [result for result in results if result.run.kind is RunKind.MULTI_TASK and result.rows]
    bound = fmean(success_matrix(bounds[0])[0]) if bounds else None
    trained = [_up_to_evaluation(result) for result in results if result.run.kind is RunKind.SEQUENCE]
    trained = [result for result in trained if len(result.rows) > 1]
    plain = next((result.rows for result in trained if result.run.recipe.strategy == NO_STRATEGY), ())
    return StreamReport(
        machine=machine,
        settings=dict(settings),
        bound_accuracy=bound,
        bound_rounds=len(bounds[0].rows) if bounds else 0,
        rows=[_summarize(result, bound, plain) for result in trained],
    )


def _up_to_evaluation(result: RunResult) -> RunResult:
    """Leave out the rounds after the last one in which all sessions so far were evaluated."""
    rows = list(result.rows)
    while rows and len(rows[-1].scores) != len(rows):
        rows.pop()
    return result.model_copy(update={"rows": tuple(rows)})


def _summarize(result: RunResult, bound: float | None, plain: Sequence[RoundEvaluation]) -> StreamSummary:
    cells = [
        dict(zip(row.sessions or range(len(values)), values, strict=True))
        for row, values in zip(result.rows, success_matrix(result), strict=True)
    ]
    accuracy = stream_metrics.average_accuracy(cells)
    fifth = max(1, len(cells) // 5)
    tokens = [row.tokens for row in result.rows]
    common = min(len(plain), len(result.rows))
    early = tokens[COST_SESSIONS // 2 :][:COST_SESSIONS]  # the third to the seventh: around the fifth
    return StreamSummary(
        strategy=result.run.recipe.strategy,
        epochs=result.run.recipe.epochs,
        sessions=len(cells),
        accuracy=accuracy,
        accuracy_over_bound=accuracy / bound if bound else None,
        forgetting=stream_metrics.forgetting(cells),
        worst_dip=stream_metrics.worst_dip(cells),
        worst_mean_dip=stream_metrics.worst_mean_dip(cells),
        early_plasticity=stream_metrics.plasticity(cells, 0, fifth),
        late_plasticity=stream_metrics.plasticity(cells, len(cells) - fifth, len(cells)),
        tokens=sum(tokens),
        seconds=sum(row.learning_s for row in result.rows),
        tokens_over_none=_ratio([row.tokens for row in result.rows[:common]], [row.tokens for row in plain[:common]]),
        seconds_over_none=_ratio(
            [row.learning_s for row in result.rows[:common]], [row.learning_s for row in plain[:common]]
        ),
        late_over_early_tokens=fmean(tokens[-COST_SESSIONS:]) / fmean(early or tokens),
        mean_success=tuple((i + 1, fmean(row.values())) for i, row in enumerate(cells) if len(row) == i + 1),
    )


def _ratio(costs: Sequence[float], plain: Sequence[float]) -> float | None:
    return sum(costs) / sum(plain) if sum(plain) else None


_HEADINGS = (
    "strategy",
    "epochs",
    "sessions",
    "ACC",
    "of bound",
    "F",
    "worst dip",
    "worst mean dip",
    "learned early",
    "learned late",
    "tokens of none",
    "seconds of none",
    "late of early",
)


def _cells(row: StreamSummary) -> list[str]:
    values = (
        row.accuracy,
        row.accuracy_over_bound,
        row.forgetting,
        row.worst_dip,
        row.worst_mean_dip,
        row.early_plasticity,
        row.late_plasticity,
        row.tokens_over_none,
        row.seconds_over_none,
        row.late_over_early_tokens,
    )
    texts = ["" if value is None else f"{value:.3f}" for value in values]
    return [row.strategy, str(row.epochs), str(row.sessions), *texts]


def stream_table(report: StreamReport) -> Table:
    """Return a table for the terminal.

    Args:
        report: The report.

    Returns:
        One row per strategy.
    """
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, heading in enumerate(_HEADINGS):
        table.add_column(heading, justify="right" if number else "left")
    for row in report.rows:
        table.add_row(*_cells(row))
    return table


def stream_markdown(report: StreamReport) -> str:
    """Return the report for the documentation.

    Args:
        report: The report.

    Returns:
        Markdown with the machine, the settings, the table, the bound and the success over time.
    """
    settings = ", ".join(f"{name} {value}" for name, value in report.settings.items())
    head = [f"| {' | '.join(_HEADINGS)} |", f"| --- |{' ---: |' * (len(_HEADINGS) - 1)}"]
    body = [f"| {' | '.join(_cells(row))} |" for row in report.rows]
    bound = (
        []
        if report.bound_accuracy is None
        else ["", f"- multi-task bound: {report.bound_accuracy:.3f} after {report.bound_rounds} rounds"]
    )
    over_time = [
        f"- {row.strategy}, mean success after n sessions: "
        + ", ".join(f"{number}: {value:.3f}" for number, value in row.mean_success)
        for row in report.rows
    ]
    return "\n".join([f"{report.machine}; {settings}", "", *head, *body, *bound, "", *over_time]) + "\n"
