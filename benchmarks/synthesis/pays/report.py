"""What every variant came to, over the seeds that there are."""

import statistics
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from looper.benchmarks.synthesis.pays import noisy
from looper.benchmarks.synthesis.pays.bench import HELD_OUT, INSTANCE, RECIPE, TASKS, Row
from looper.benchmarks.synthesis.pays.variants import FULL, SUCCESSES, WITHOUT


class Figure(BaseModel):
    """Over seeds; ``sd`` is None of a single one."""

    model_config = ConfigDict(frozen=True)

    mean: float
    sd: float | None
    values: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if self.sd is None else f"{self.mean:.3f} ± {self.sd:.3f}"


class Line(BaseModel):
    """One variant."""

    model_config = ConfigDict(frozen=True)

    variant: str
    seeds: tuple[int, ...]
    same_as_full: tuple[int, ...]
    """The seeds with which its examples are those of the whole pipeline, so that the stage does nothing here."""
    success: Figure
    """Share of held-out tasks that the skill solved."""
    loops: Figure
    """Share of held-out tasks in which it made the same call twice in a row and was answered the same."""
    right_turns: Figure
    """Share of its turns that were what the house asks for."""
    examples: Figure
    tokens: Figure
    """That went through the model in training."""


class PaysReport(BaseModel):
    """What every ``looper bench`` prints."""

    model_config = ConfigDict(frozen=True)

    machine: str
    settings: dict[str, Any]
    rows: tuple[Line, ...]
    ratios: dict[str, float]


def report(rows: Sequence[Row], machine: str, base: str) -> PaysReport:
    lines = [_line(variant, rows) for variant in WITHOUT if any(row.variant == variant for row in rows)]
    settings = {
        "instance": INSTANCE,
        "base": base,
        "tasks": TASKS,
        "held_out": HELD_OUT,
        **RECIPE.model_dump(include={"method", "rank", "learning_rate", "batch_size", "max_steps", "max_context"}),
        "noise": {name: getattr(noisy, name) for name in _RATES},
    }
    return PaysReport(machine=machine, settings=settings, rows=tuple(lines), ratios=_ratios(lines))


_RATES = (
    *("TRIALS", "OFTEN", "OFTEN_TRIALS", "FAILED", "SAID_ONLY", "SLIPS", "REPEATS", "LENGTHS", "BROKEN"),
    *("TIMED_OUT", "LUCKY"),
)


def to_markdown(found: PaysReport) -> str:
    """The report for ``docs/results``."""
    lines = [
        "# Does synthesis pay?",
        "",
        f"Skills for `{INSTANCE}` from the same noisy trajectories with the same {RECIPE.max_steps} steps of "
        f"{RECIPE.batch_size} examples, on {HELD_OUT} held-out tasks each, which they work on by themselves, greedily. "
        "Mean ± standard deviation over the seeds. [How it is measured](../synthesis.md#does-it-pay)",
        "",
        "`python -m looper.benchmarks.synthesis.pays OUT`. Machine: " + found.machine + ".",
        "",
        "| variant | seeds | success | loops | right turns | examples | tokens |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {line.variant} | {len(line.seeds)} | {line.success} | {line.loops} | {line.right_turns} "
        f"| {line.examples.mean:.0f} | {line.tokens.mean:,.0f} |"
        for line in found.rows
    ]
    lines += ["", *(f"- {name}: {value:.3g}" for name, value in found.ratios.items())]
    for line in found.rows:
        if line.same_as_full and line.variant != FULL:
            lines += [
                f"- {line.variant}: the same examples as {FULL} with seeds {', '.join(map(str, line.same_as_full))}"
            ]
    return "\n".join(lines) + "\n"


def _line(variant: str, rows: Sequence[Row]) -> Line:
    ours = sorted((row for row in rows if row.variant == variant), key=lambda row: row.seed)
    whole = {(row.seed, row.digest) for row in rows if row.variant == FULL}
    return Line(
        variant=variant,
        seeds=tuple(row.seed for row in ours),
        same_as_full=tuple(row.seed for row in ours if (row.seed, row.digest) in whole),
        success=_figure([row.lived.solved / row.lived.episodes for row in ours]),
        loops=_figure([row.lived.looped / row.lived.episodes for row in ours]),
        right_turns=_figure([row.lived.right_turns / row.lived.turns for row in ours]),
        examples=_figure([row.examples for row in ours]),
        tokens=_figure([row.tokens for row in ours]),
    )


def _figure(values: Sequence[float]) -> Figure:
    sd = statistics.stdev(values) if len(values) > 1 else None
    return Figure(mean=statistics.fmean(values), sd=sd, values=tuple(values))


def _ratios(lines: Sequence[Line]) -> dict[str, float]:
    by = {line.variant: line for line in lines}
    if not {FULL, SUCCESSES} <= by.keys():
        return {}
    full, naive = by[FULL], by[SUCCESSES]
    found = {"success_points_over_successes_only": 100 * (full.success.mean - naive.success.mean)}
    if naive.loops.mean:
        found["loops_over_successes_only"] = full.loops.mean / naive.loops.mean
    return found
