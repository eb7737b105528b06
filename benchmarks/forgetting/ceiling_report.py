"""Report how many random rules each rank holds: as JSON, as a table for the terminal, and as Markdown.

``ceiling.py`` calls it. A rank's capacity is the number of rules of which it would recall ``HELD``: between the last
number of which it does and the first of which it does not, recall is taken to fall linearly with the logarithm of the
number. Intervals are a bootstrap over the rules of each run. They do not cover that another seed would train another
adapter.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict
from rich.table import Table

from looper.benchmarks.forgetting.plan import ForgettingRun
from looper.benchmarks.forgetting.run import RunResult, mean_success

HELD = 0.9
"""Share of the rules that must be recalled exactly, so that an adapter is said to hold them."""
_DRAWS = 2000
_INTERVAL = (2.5, 97.5)

Kind = Literal["measured", "at least", "below"]


class RuleRecall(BaseModel):
    """What one rank recalls of one number of rules."""

    model_config = ConfigDict(frozen=True)

    rank: int
    """LoRA rank."""
    rules: int
    """Number of rules."""
    right: int
    """Rules of which each token of the call is the most likely one, after the best round of training."""
    passes: int
    """Times that each rule was trained on until then."""
    passes_until_held: int | None
    """Times that each was trained on when ``HELD`` of them were recalled first. None: they never were."""
    tokens: int
    """Tokens of all training."""
    seconds: float
    """Duration of all training, in seconds."""
    failure: str | None
    """Why the run failed, or None."""

    @property
    def recall(self) -> float:
        """Share of the rules that are recalled."""
        return self.right / self.rules


class RankCapacity(BaseModel):
    """How many rules an adapter of one rank holds."""

    model_config = ConfigDict(frozen=True)

    rank: int
    """LoRA rank."""
    rules: float
    """Number of rules of which ``HELD`` are recalled, or the bound that ``kind`` says."""
    kind: Kind
    """``at least`` if the most rules that were tried are held, ``below`` if not even the fewest are."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end."""


class CapacityLaw(BaseModel):
    """Fitted law: rules = factor * rank^exponent. The number of an adapter's parameters is proportional to its rank."""

    model_config = ConfigDict(frozen=True)

    factor: float
    """Rules that rank 1 would hold."""
    exponent: float
    """1: as many rules for each parameter at any rank. 0: the rank does not matter."""
    low: float
    """Lower end of the 95 % interval of the exponent."""
    high: float
    """Upper end."""
    ranks: int
    """Number of ranks that it was fitted to."""

    def predict(self, rank: float) -> float:
        """Return the number of rules that an adapter of a rank would hold."""
        return float(self.factor * rank**self.exponent)


class CeilingReport(BaseModel):
    """Report of ``looper bench forgetting --ceiling --json``."""

    model_config = ConfigDict(frozen=True)

    machine: str
    """Description of the machine."""
    settings: dict[str, str | int | float]
    """Settings that all runs share."""
    runs: list[RuleRecall]
    """Each rank with each number of rules."""
    capacities: list[RankCapacity]
    """One per rank."""
    law: CapacityLaw | None
    """None if fewer than two capacities are measured: a bound is nothing to fit."""


def build_ceiling_report(
    results: Sequence[RunResult], machine: str, settings: Mapping[str, str | int | float]
) -> CeilingReport:
    """Build the report of the results.

    Args:
        results: Results of runs with random rules.
        machine: Description of the machine.
        settings: Settings that all runs share.

    Returns:
        The report.
    """
    runs = sorted(map(_summarize, results), key=lambda each: (each.rank, each.rules))
    ladders = {rank: [each for each in runs if each.rank == rank] for rank in sorted({each.rank for each in runs})}
    rng = np.random.default_rng(0)
    drawn = {
        rank: [
            _find_capacity([(run.rules, rng.binomial(run.rules, run.recall) / run.rules) for run in ladder])[0]
            for _ in range(_DRAWS)
        ]
        for rank, ladder in ladders.items()
    }
    capacities = []
    for rank, ladder in ladders.items():
        rules, kind = _find_capacity([(run.rules, run.recall) for run in ladder])
        low, high = (float(end) for end in np.percentile(drawn[rank], _INTERVAL))
        capacities.append(RankCapacity(rank=rank, rules=rules, kind=kind, low=low, high=high))
    return CeilingReport(
        machine=machine, settings=dict(settings), runs=runs, capacities=capacities, law=_fit_law(capacities, drawn)
    )


def ceiling_table(report: CeilingReport) -> Table:
    """Return a table of all runs for the terminal, with the capacities and the law below it.

    Args:
        report: The report.
    """
    table = Table(box=None, header_style="bold", pad_edge=False, caption=_describe(report), caption_justify="left")
    for heading in _HEADINGS:
        table.add_column(heading, justify="right")
    for run in report.runs:
        table.add_row(*_cells(run))
    return table


def ceiling_markdown(report: CeilingReport) -> str:
    """Return the report for the documentation.

    Args:
        report: The report.

    Returns:
        Markdown with the machine, the settings, the table, the capacities and the law.
    """
    settings = ", ".join(f"{name} {value}" for name, value in report.settings.items())
    head = [f"| {' | '.join(_HEADINGS)} |", f"|{' ---: |' * len(_HEADINGS)}"]
    body = [f"| {' | '.join(_cells(run))} |" for run in report.runs]
    lines = [f"- {line}" for line in _describe(report).splitlines()]
    return "\n".join([f"{report.machine}; {settings}", "", *head, *body, "", *lines]) + "\n"


def count_rules(run: ForgettingRun) -> int:
    """Return the number of rules of a run, with which its source begins."""
    return int(run.source.split()[0])


def best_recall(result: RunResult) -> float:
    """Return the share of the rules that was recalled after the best round, from 0 to 1."""
    return max(map(mean_success, result.rows), default=0.0)


def _summarize(result: RunResult) -> RuleRecall:
    recalls, epochs = [mean_success(row) for row in result.rows], result.run.recipe.epochs
    best, rules = best_recall(result), count_rules(result.run)
    held = next((number for number, recall in enumerate(recalls, start=1) if recall >= HELD), None)
    return RuleRecall(
        rank=result.run.recipe.rank,
        rules=rules,
        right=round(best * rules),
        passes=(recalls.index(best) + 1) * epochs if recalls else 0,
        passes_until_held=None if held is None else held * epochs,
        tokens=sum(row.tokens for row in result.rows),
        seconds=sum(row.learning_s for row in result.rows),
        failure=result.failure,
    )


def _find_capacity(ladder: Sequence[tuple[int, float]]) -> tuple[float, Kind]:
    """Return the number of rules at which recall falls to ``HELD``. The ladder has numbers of rules, and recall."""
    held: tuple[int, float] | None = None
    for rules, recall in ladder:
        if recall < HELD:
            if held is None:
                return float(rules), "below"
            share = (held[1] - HELD) / (held[1] - recall)
            return float(held[0] * (rules / held[0]) ** share), "measured"
        held = rules, recall
    return float(ladder[-1][0]), "at least"


def _fit_law(capacities: Sequence[RankCapacity], drawn: Mapping[int, Sequence[float]]) -> CapacityLaw | None:
    """Fit the capacities that are measured by least squares of logarithms."""
    ranks = [each.rank for each in capacities if each.kind == "measured"]
    if len(ranks) < 2:
        return None
    logs = np.log(ranks)
    exponent, intercept = np.polyfit(logs, np.log([each.rules for each in capacities if each.rank in ranks]), 1)
    exponents = np.polyfit(logs, np.log([drawn[rank] for rank in ranks]), 1)[0]
    low, high = (float(end) for end in np.percentile(exponents, _INTERVAL))
    return CapacityLaw(factor=float(np.exp(intercept)), exponent=float(exponent), low=low, high=high, ranks=len(ranks))


def _describe(report: CeilingReport) -> str:
    """Return one line for each rank, and one for the law."""
    lines = []
    for each in report.capacities:
        bound = "" if each.kind == "measured" else f"{each.kind} "
        interval = f" (95 %: {each.low:.0f} to {each.high:.0f})" if each.kind == "measured" else ""
        lines.append(f"rank {each.rank} holds {bound}{each.rules:.0f} rules{interval}")
    law = report.law
    if law is None:
        lines.append("no law: fewer than two ranks have a ceiling among the numbers of rules that were tried")
    else:
        lines.append(f"rules = {law.factor:.3g} rank^{law.exponent:.2f} (95 %: {law.low:.2f} to {law.high:.2f})")
    return "\n".join(lines)


_HEADINGS = ("rank", "rules", "recalled", "passes", "passes until 90 %", "tokens", "s")


def _cells(run: RuleRecall) -> list[str]:
    if run.failure is not None:
        return [str(run.rank), str(run.rules), f"failed: {run.failure}", "", "", "", ""]
    held = "" if run.passes_until_held is None else str(run.passes_until_held)
    return [
        *(str(run.rank), str(run.rules), f"{run.recall:.3f}", str(run.passes), held),
        *(str(run.tokens), f"{run.seconds:.0f}"),
    ]
