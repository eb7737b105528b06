"""What every variant came to, over the seeds that there are; what its data teaches is told without training."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from looper.benchmarks.synthesis.ablation import noisy_agent as noisy
from looper.benchmarks.synthesis.ablation.bench import HELD_OUT, INSTANCE, RECIPE, TASKS, AblationRow, digest, played
from looper.benchmarks.synthesis.ablation.taught_calls import taught
from looper.benchmarks.synthesis.ablation.variants import FULL, SUCCESSES, WITHOUT, examples
from looper.gym.workplaces import WORKPLACES
from looper.platform.domain.example import Example


class Figure(BaseModel):
    """Over seeds; ``sd`` is None of a single one."""

    model_config = ConfigDict(frozen=True)

    mean: float
    sd: float | None
    values: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if self.sd is None else f"{self.mean:.3f} ± {self.sd:.3f}"


class VariantSummary(BaseModel):
    """One variant. ``success``, ``loops``, ``right_turns`` and ``tokens`` are None until a seed was trained."""

    model_config = ConfigDict(frozen=True)

    variant: str
    seeds: tuple[int, ...]
    """That were trained."""
    same_as_full: tuple[int, ...]
    """The seeds with which its examples are those of the whole pipeline, so that the stage does nothing here."""
    success: Figure | None
    """Share of held-out tasks that the skill solved."""
    loops: Figure | None
    """Share of held-out tasks in which it made the same call twice in a row and was answered the same."""
    right_turns: Figure | None
    """Share of its turns that were what the house asks for."""
    examples: Figure
    taught_wrong: Figure
    """Share of the learned calls, by weight, that the house does not ask for at that point."""
    taught_repeated: Figure
    """Share of them that repeat the call before, though it was answered the same."""
    tokens: Figure | None
    """That went through the model in training."""


class AblationReport(BaseModel):
    """What every ``looper bench`` prints."""

    model_config = ConfigDict(frozen=True)

    machine: str
    settings: dict[str, Any]
    rows: tuple[VariantSummary, ...]
    ratios: dict[str, float]


def report(rows: Sequence[AblationRow], seeds: Sequence[int], machine: str, base: str) -> AblationReport:
    """Of what was trained; what the data teaches is of ``seeds``."""
    data = {(variant, seed): examples(variant, played(seed)) for variant in WITHOUT for seed in seeds}
    lines = [_line(variant, rows, data) for variant in WITHOUT]
    settings = {
        "instance": INSTANCE,
        "base": base,
        "tasks": TASKS,
        "held_out": HELD_OUT,
        **RECIPE.model_dump(include={"method", "rank", "learning_rate", "batch_size", "max_steps", "max_seq_length"}),
        "noise": {name: getattr(noisy, name) for name in _RATES},
    }
    return AblationReport(machine=machine, settings=settings, rows=tuple(lines), ratios=_ratios(lines))


_RATES = (
    *("TRIALS", "OFTEN", "OFTEN_TRIALS", "FAILED", "SAID_ONLY", "SLIPS", "REPEATS", "LENGTHS", "BROKEN"),
    *("TIMED_OUT", "LUCKY"),
)


def to_markdown(found: AblationReport) -> str:
    """The report for ``docs/results``."""
    lines = [
        "# Does synthesis pay?",
        "",
        f"Skills for `{INSTANCE}` from the same noisy trajectories with the same {RECIPE.max_steps} steps of "
        f"{RECIPE.batch_size} examples, on {HELD_OUT} held-out tasks each, which they work on by themselves, greedily. "
        "Mean ± standard deviation over the seeds. [How it is measured](../synthesis.md#does-it-pay)",
        "",
        "`python -m looper.benchmarks.synthesis.ablation OUT`. Machine: " + found.machine + ".",
        "",
        "*Wrong* and *repeated* are shares of what the data has a skill learn, by weight: calls the house does not "
        "ask for at that point, and calls made again though they were answered the same.",
        "",
        "| variant | trained | success | loops | right turns | examples | wrong | repeated |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {line.variant} | {len(line.seeds)} | {_shown(line.success)} | {_shown(line.loops)} "
        f"| {_shown(line.right_turns)} | {line.examples.mean:.0f} | {line.taught_wrong} | {line.taught_repeated} |"
        for line in found.rows
    ]
    lines += ["", *(f"- {name}: {value:.3g}" for name, value in found.ratios.items())]
    for line in found.rows:
        if line.same_as_full and line.variant != FULL:
            lines += [
                f"- {line.variant}: the same examples as {FULL} with seeds {', '.join(map(str, line.same_as_full))}"
            ]
    return "\n".join(lines) + "\n"


def _line(
    variant: str, rows: Sequence[AblationRow], data: Mapping[tuple[str, int], Sequence[Example]]
) -> VariantSummary:
    ours = sorted((row for row in rows if row.variant == variant), key=lambda row: row.seed)
    made = {seed: found for (name, seed), found in data.items() if name == variant}
    teach = [taught(found, WORKPLACES[INSTANCE], seed) for seed, found in made.items()]
    return VariantSummary(
        variant=variant,
        seeds=tuple(row.seed for row in ours),
        same_as_full=tuple(seed for seed, found in made.items() if digest(found) == digest(data[FULL, seed])),
        success=_figure([row.lived.solved / row.lived.episodes for row in ours]) if ours else None,
        loops=_figure([row.lived.looped / row.lived.episodes for row in ours]) if ours else None,
        right_turns=_figure([row.lived.right_turns / row.lived.turns for row in ours]) if ours else None,
        examples=_figure([len(found) for found in made.values()]),
        taught_wrong=_figure([each.wrong for each in teach]),
        taught_repeated=_figure([each.repeated for each in teach]),
        tokens=_figure([row.tokens for row in ours]) if ours else None,
    )


def _shown(figure: Figure | None) -> str:
    return "" if figure is None else str(figure)


def _figure(values: Sequence[float]) -> Figure:
    sd = statistics.stdev(values) if len(values) > 1 else None
    return Figure(mean=statistics.fmean(values), sd=sd, values=tuple(values))


def _ratios(lines: Sequence[VariantSummary]) -> dict[str, float]:
    by = {line.variant: line for line in lines}
    full, naive = by[FULL], by[SUCCESSES]
    if full.seeds != naive.seeds or not (full.success and naive.success and full.loops and naive.loops):
        return {}
    found = {"success_points_over_successes_only": 100 * (full.success.mean - naive.success.mean)}
    if naive.loops.mean:
        found["loops_over_successes_only"] = full.loops.mean / naive.loops.mean
    return found
