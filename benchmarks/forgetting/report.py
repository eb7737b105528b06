"""Report the results of the forgetting benchmark: as JSON, as a table for the terminal, and as Markdown.

``bench.py`` builds the report of the rows of ``summary.py``. The table shows each strategy with its best learning rate,
ordered by the accuracy at the end. The JSON has all learning rates. The default recipe is the strategy with the highest
accuracy at the end among those with the most seeds. If two strategies are equal, it is the one that forgets less.
"""

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict
from rich.table import Table

from looper.benchmarks.forgetting.plan import RunKind
from looper.benchmarks.forgetting.power_law import PowerLaw
from looper.benchmarks.forgetting.run import RunResult
from looper.benchmarks.forgetting.summary import METRIC_LABELS, StrategySummary, best_rates, summarize_results


class ForgettingReport(BaseModel):
    """Report of ``looper bench forgetting --json``."""

    model_config = ConfigDict(frozen=True)

    machine: str
    """Description of the machine."""
    settings: dict[str, str | int | float]
    """Settings that all runs share."""
    rows: list[StrategySummary]
    """One row per strategy, bound and recipe."""
    ratios: dict[str, float]
    """``default_forgetting``: F of the default recipe. ``default_accuracy_over_multi_task``: its ACC divided by that of
    the upper bound. ``power_law_*``: the fitted constants."""


def build_report(
    results: Sequence[RunResult], machine: str, settings: Mapping[str, str | int | float], law: PowerLaw | None = None
) -> ForgettingReport:
    """Build the report of the results.

    Args:
        results: Results of runs from one source.
        machine: Description of the machine.
        settings: Settings that all runs share.
        law: The power law that was fitted to the results, in phase 3.

    Returns:
        The report.
    """
    rows = summarize_results(results)
    ratios = _ratios(best_rates(rows))
    if law is not None:
        ratios |= {f"power_law_{name}": value for name, value in law._asdict().items()}
    return ForgettingReport(machine=machine, settings=dict(settings), rows=rows, ratios=ratios)


def to_table(report: ForgettingReport) -> Table:
    """Return a table for the terminal.

    Args:
        report: The report.

    Returns:
        One row per strategy and bound.
    """
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, heading in enumerate(_HEADINGS):
        table.add_column(heading, justify="right" if number else "left")
    for row in best_rates(report.rows):
        table.add_row(*_cells(row))
    return table


def to_markdown(report: ForgettingReport) -> str:
    """Return the report for the documentation.

    Args:
        report: The report.

    Returns:
        Markdown with the machine, the settings, the table and the ratios.
    """
    settings = ", ".join(f"{name} {value}" for name, value in report.settings.items())
    body = [f"| {' | '.join(_cells(row))} |" for row in best_rates(report.rows)]
    head = [f"| {' | '.join(_HEADINGS)} |", f"| --- |{' ---: |' * (len(_HEADINGS) - 1)}"]
    ratios = [f"- {name}: {value:.3g}" for name, value in report.ratios.items()]
    return "\n".join([f"{report.machine}; {settings}", "", *head, *body, "", *ratios]) + "\n"


def _ratios(rows: Sequence[StrategySummary]) -> dict[str, float]:
    bounds = [row for row in rows if row.kind is RunKind.MULTI_TASK and row.figures]
    trained = [row for row in rows if row.kind is RunKind.SEQUENCE and row.figures]
    if not bounds or not trained:
        return {}
    # A lucky single seed must not beat a mean over several seeds.
    max_seeds = max(len(row.seeds) for row in trained)
    default = min((row for row in trained if len(row.seeds) == max_seeds), key=lambda row: row.sort_key)
    ratios = {"default_forgetting": default.figures["forgetting"].mean}
    if upper := bounds[0].figures["accuracy"].mean:
        ratios["default_accuracy_over_multi_task"] = default.figures["accuracy"].mean / upper
    return ratios


_HEADINGS = ("strategy", "rate", "rank", "epochs", "seeds", *METRIC_LABELS.values(), "s")


def _cells(row: StrategySummary) -> list[str]:
    recipe = (f"{row.learning_rate:g}", str(row.rank), str(row.epochs))
    cells = [row.label, *(("", "", "") if row.kind is RunKind.BASE else recipe), str(len(row.seeds))]
    cells += [str(row.figures.get(name, "")) for name in METRIC_LABELS]
    return [*cells, f"failed: {row.failures[0]}" if row.failures else f"{row.seconds:.0f}"]
