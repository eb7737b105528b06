"""Report the results of every variant over the seeds that exist, and what the training data of each variant teaches.

``__main__.py`` calls it. What the data teaches is computed without training, see ``learned_calls.py``.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from looper.benchmarks.synthesis.ablation import noisy_agent
from looper.benchmarks.synthesis.ablation.bench import (
    HELD_OUT_TASKS,
    INSTANCE,
    RECIPE,
    TRAINING_TASKS,
    AblationRow,
    digest_examples,
    play_training_episodes,
)
from looper.benchmarks.synthesis.ablation.learned_calls import measure_learned_calls
from looper.benchmarks.synthesis.ablation.variants import DISABLED_STAGES, FULL, SUCCESSES_ONLY, build_examples
from looper.gym.workplaces import WORKPLACES
from looper.platform.domain.example import Example


class SeedStatistics(BaseModel):
    """A measure over seeds."""

    model_config = ConfigDict(frozen=True)

    mean: float
    """Mean over the seeds."""
    sd: float | None
    """Sample standard deviation, or None for a single seed."""
    values: tuple[float, ...]
    """Value of each seed."""

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if self.sd is None else f"{self.mean:.3f} ± {self.sd:.3f}"


class VariantSummary(BaseModel):
    """Results of one variant. Measures of the trained skill are None if no seed was trained."""

    model_config = ConfigDict(frozen=True)

    variant: str
    """Name of the variant."""
    seeds: tuple[int, ...]
    """Seeds that were trained."""
    same_as_full: tuple[int, ...]
    """Seeds with which the examples are identical to those of the whole pipeline, so the stage has no effect."""
    success: SeedStatistics | None
    """Share of held-out tasks that the skill solved."""
    loops: SeedStatistics | None
    """Share of held-out tasks in which it made one call twice in a row and got the same answer."""
    right_turns: SeedStatistics | None
    """Share of its turns that were what the workplace's rules require."""
    examples: SeedStatistics
    """Number of examples."""
    taught_wrong: SeedStatistics
    """Share of the learned calls, by weight, that the rules do not require at that point."""
    taught_repeated: SeedStatistics
    """Share of the learned calls, by weight, that repeat the call before although the answer was the same."""
    tokens: SeedStatistics | None
    """Tokens of all training batches."""


class AblationReport(BaseModel):
    """Report of the ablation, with the fields of every ``looper bench`` report."""

    model_config = ConfigDict(frozen=True)

    machine: str
    """Description of the machine."""
    settings: dict[str, Any]
    """Settings of the benchmark."""
    rows: tuple[VariantSummary, ...]
    """One row per variant."""
    ratios: dict[str, float]
    """Comparison of the whole pipeline with the successes only. It is empty until both were trained with the same
    seeds."""


def build_report(rows: Sequence[AblationRow], seeds: Sequence[int], machine: str, base: str) -> AblationReport:
    """Build the report.

    Args:
        rows: The results that exist.
        seeds: Seeds of the training data whose content is reported.
        machine: Description of the machine.
        base: Name of the base model.

    Returns:
        The report.
    """
    data = {
        (variant, seed): build_examples(variant, play_training_episodes(seed))
        for variant in DISABLED_STAGES
        for seed in seeds
    }
    summaries = [_summarize_variant(variant, rows, data) for variant in DISABLED_STAGES]
    settings = {
        "instance": INSTANCE,
        "base": base,
        "tasks": TRAINING_TASKS,
        "held_out": HELD_OUT_TASKS,
        **RECIPE.model_dump(include={"method", "rank", "learning_rate", "batch_size", "max_steps", "max_seq_length"}),
        "noise": _NOISE,
    }
    return AblationReport(machine=machine, settings=settings, rows=tuple(summaries), ratios=_ratios(summaries))


_NOISE = {
    "TRIALS": noisy_agent.TRIALS_PER_TASK,
    "OFTEN": noisy_agent.FREQUENT_TASK_RATE,
    "OFTEN_TRIALS": noisy_agent.TRIALS_PER_FREQUENT_TASK,
    "FAILED": noisy_agent.FAILURE_RATE,
    "SAID_ONLY": noisy_agent.MESSAGE_REWARD_RATE,
    "SLIPS": noisy_agent.CORRECTED_CALL_RATE,
    "REPEATS": noisy_agent.REPETITION_RATE,
    "LENGTHS": noisy_agent.REPETITION_COUNTS,
    "BROKEN": noisy_agent.TOOL_BUG_RATE,
    "TIMED_OUT": noisy_agent.TIMEOUT_RATE,
    "LUCKY": noisy_agent.SKIPPED_READ_RATE,
}
"""The noise settings, with the names that published reports have."""


def to_markdown(report: AblationReport) -> str:
    """Return the report for ``docs/results``.

    Args:
        report: The report.

    Returns:
        Markdown with the table and the comparison.
    """
    lines = [
        "# Does synthesis pay?",
        "",
        f"Skills for `{INSTANCE}` were trained on the same noisy trajectories, with the same {RECIPE.max_steps} steps "
        f"of {RECIPE.batch_size} examples. Each worked on {HELD_OUT_TASKS} held-out tasks with greedy decoding. The "
        "table has the mean ± standard deviation over the seeds. "
        "[How it is measured](../synthesis.md#does-it-pay)",
        "",
        f"`python -m looper.benchmarks.synthesis.ablation OUT`. Machine: {report.machine}.",
        "",
        "*Wrong* and *repeated* are shares of the calls that a skill learns, by weight. A wrong call is one that the "
        "workplace's rules do not require at that point. A repeated call is made again although the answer was the "
        "same.",
        "",
        "| variant | trained | success | loops | right turns | examples | wrong | repeated |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row.variant} | {len(row.seeds)} | {_format(row.success)} | {_format(row.loops)} "
        f"| {_format(row.right_turns)} | {row.examples.mean:.0f} | {row.taught_wrong} | {row.taught_repeated} |"
        for row in report.rows
    ]
    lines += ["", *(f"- {name}: {value:.3g}" for name, value in report.ratios.items())]
    lines += [
        f"- {row.variant}: the same examples as {FULL} with seeds {', '.join(map(str, row.same_as_full))}"
        for row in report.rows
        if row.same_as_full and row.variant != FULL
    ]
    return "\n".join(lines) + "\n"


def _summarize_variant(
    variant: str, rows: Sequence[AblationRow], data: Mapping[tuple[str, int], Sequence[Example]]
) -> VariantSummary:
    """Summarize one variant. ``data`` has the examples by variant and seed."""
    trained = sorted((row for row in rows if row.variant == variant), key=lambda row: row.seed)
    by_seed = {seed: examples for (name, seed), examples in data.items() if name == variant}
    learned = [measure_learned_calls(examples, WORKPLACES[INSTANCE], seed) for seed, examples in by_seed.items()]
    return VariantSummary(
        variant=variant,
        seeds=tuple(row.seed for row in trained),
        same_as_full=tuple(
            seed for seed, examples in by_seed.items() if digest_examples(examples) == digest_examples(data[FULL, seed])
        ),
        success=_statistics([row.lived.solved / row.lived.episodes for row in trained]) if trained else None,
        loops=_statistics([row.lived.looped / row.lived.episodes for row in trained]) if trained else None,
        right_turns=_statistics([row.lived.right_turns / row.lived.turns for row in trained]) if trained else None,
        examples=_statistics([len(examples) for examples in by_seed.values()]),
        taught_wrong=_statistics([calls.wrong for calls in learned]),
        taught_repeated=_statistics([calls.repeated for calls in learned]),
        tokens=_statistics([row.tokens for row in trained]) if trained else None,
    )


def _format(value: SeedStatistics | None) -> str:
    return "" if value is None else str(value)


def _statistics(values: Sequence[float]) -> SeedStatistics:
    sd = statistics.stdev(values) if len(values) > 1 else None
    return SeedStatistics(mean=statistics.fmean(values), sd=sd, values=tuple(values))


def _ratios(rows: Sequence[VariantSummary]) -> dict[str, float]:
    by_variant = {row.variant: row for row in rows}
    full, successes = by_variant[FULL], by_variant[SUCCESSES_ONLY]
    if full.seeds != successes.seeds or not (full.success and successes.success and full.loops and successes.loops):
        return {}
    ratios = {"success_points_over_successes_only": 100 * (full.success.mean - successes.success.mean)}
    if successes.loops.mean:
        ratios["loops_over_successes_only"] = full.loops.mean / successes.loops.mean
    return ratios
