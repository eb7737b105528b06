"""Summarize the episodes of each arm, compare it with the skill task by task, and pick the figures of the issue.

``report.py`` shows the summaries.
"""

from collections.abc import Collection, Mapping, Sequence
from statistics import fmean

from pydantic import BaseModel, ConfigDict

from looper.benchmarks.skill.arms.arm import Adapter, Arm
from looper.benchmarks.skill.arms.memory_system import Writer
from looper.benchmarks.skill.bootstrap import bootstrap_mean
from looper.benchmarks.skill.results import EpisodeKey, EpisodeRecord, MemoryKey, ResultStore


class ArmSummary(BaseModel):
    """Results of one arm over all worlds, seeds and tasks."""

    model_config = ConfigDict(frozen=True)

    arm: str
    """Name of the arm."""
    adapter: str
    """Which weights answered."""
    knowledge: str
    """What stood in the prompt; empty for nothing."""
    is_bound: bool
    """Whether someone who knows the true rules wrote for it what no agent has, so that it bounds a system."""
    is_robustness: bool
    """Whether the prompt disagreed with what the agent has lived through, on purpose."""
    tasks: int
    """Number of tasks, those of each world and seed counted."""
    strict: float
    """Share of the tasks that were solved with each turn as the world asks for it, from 0 to 1."""
    strict_low: float
    """Lower end of the 95 % interval of ``strict``."""
    strict_high: float
    """Upper end of the 95 % interval of ``strict``."""
    over_skill: float | None
    """``strict`` minus that of the skill alone on the same tasks. None if the skill was not asked."""
    over_skill_low: float | None
    """Lower end of the 95 % interval of ``over_skill``."""
    over_skill_high: float | None
    """Upper end of the 95 % interval of ``over_skill``."""
    success: float
    """Share of the tasks that were solved, from 0 to 1."""
    turns: float
    """Turns of an episode, on average."""
    prompt_tokens: float
    """Prompt tokens of a task, as billed, on average."""
    uncached_prompt_tokens: float | None
    """Prompt tokens of a task that were not in the engine's prefix cache. None: the endpoint does not say."""
    completion_tokens: float
    """Tokens that the model wrote for a task, on average."""
    seconds: float
    """Seconds of a task, on average, beside others at the same time."""
    learning_tokens: float | None
    """Tokens that were read and written in a world before its tasks, by training and by the memory's writer. None: the
    endpoint does not say what its skills were trained on."""
    refused: int
    """Number of episodes in which a prompt was longer than the context."""
    without_skill: int
    """Number of episodes that the base model answered in place of an adapter, because the gate had refused that."""
    strict_by_world: dict[str, float]
    """``strict`` of each world."""


def summarize_arms(arms: Sequence[Arm], store: ResultStore) -> list[ArmSummary]:
    """Summarize the arms that have episodes.

    Args:
        arms: The arms.
        store: The results.

    Returns:
        The summaries, the highest strict success first, and the fewest prompt tokens first among equals.
    """
    by_arm: dict[str, dict[EpisodeKey, EpisodeRecord]] = {arm.name: {} for arm in arms}
    for key, record in store.episodes.items():
        if key.arm in by_arm:
            by_arm[key.arm][key] = record
    skill = by_arm.get(Adapter.SKILL, {})
    base = {each.model for arm in arms if arm.adapter is Adapter.BASE for each in by_arm[arm.name].values()}
    rows = [_summarize(arm, by_arm[arm.name], skill, base, store) for arm in arms if by_arm[arm.name]]
    return sorted(rows, key=lambda row: (-row.strict, row.prompt_tokens))


def compute_ratios(rows: Sequence[ArmSummary]) -> dict[str, float]:
    """Return the figures that the issue asks for, as far as their arms were asked.

    The best knowledge is the best arm of the base model or of the neutral adapter with something in its prompt that an
    agent can have: memories that an oracle wrote for a system are bounds, and do not count, but the true rules do.

    Args:
        rows: The summaries.

    Returns:
        The figures by name.
    """
    by_name = {row.arm: row for row in rows}
    names = {
        "bare_strict": str(Adapter.BASE),
        "skill_strict": str(Adapter.SKILL),
        "skill_with_notes_strict": f"{Adapter.SKILL} + notes",
        "skill_with_retrieval_strict": f"{Adapter.SKILL} + retrieval 4 as text",
        "skill_newer_note_strict": f"{Adapter.SKILL} + newer note",
        "skill_wrong_demonstrations_strict": f"{Adapter.SKILL} + wrong demonstrations",
    }
    ratios = {name: by_name[arm].strict for name, arm in names.items() if arm in by_name}
    if (best := find_best_knowledge(rows)) is not None:
        ratios["best_knowledge_strict"] = best.strict
        if (skill := by_name.get(str(Adapter.SKILL))) is not None and best.prompt_tokens:
            ratios["prompt_tokens_over_best_knowledge"] = skill.prompt_tokens / best.prompt_tokens
    return ratios


def find_best_knowledge(rows: Sequence[ArmSummary]) -> ArmSummary | None:
    """Return the best arm that has knowledge and no skill of its world, or None if there is none.

    Args:
        rows: The summaries, sorted.
    """
    knowing = (row for row in rows if row.knowledge and row.adapter in (Adapter.BASE, Adapter.NEUTRAL))
    return next((row for row in knowing if not row.is_bound and not row.is_robustness), None)


def _summarize(
    arm: Arm,
    records: Mapping[EpisodeKey, EpisodeRecord],
    skill: Mapping[EpisodeKey, EpisodeRecord],
    base: Collection[str],
    store: ResultStore,
) -> ArmSummary:
    episodes = [records[key] for key in sorted(records)]
    strict = bootstrap_mean([each.strict for each in episodes])
    pairs = [(records[key], skill.get(key._replace(arm=str(Adapter.SKILL)))) for key in sorted(records)]
    lead = [float(mine.strict) - float(other.strict) for mine, other in pairs if other is not None]
    over = bootstrap_mean(lead) if lead else None
    uncached = [each.prompt_tokens - each.cached_tokens for each in episodes if each.cached_tokens is not None]
    worlds = sorted({each.world for each in episodes})
    return ArmSummary(
        arm=arm.name,
        adapter=str(arm.adapter),
        knowledge=arm.knowledge,
        is_bound=arm.writer is Writer.ORACLE,
        is_robustness=arm.system.is_robustness,
        tasks=len(episodes),
        strict=strict.mean,
        strict_low=strict.low,
        strict_high=strict.high,
        over_skill=over.mean if over else None,
        over_skill_low=over.low if over else None,
        over_skill_high=over.high if over else None,
        success=fmean(each.success for each in episodes),
        turns=fmean(each.turns for each in episodes),
        prompt_tokens=fmean(each.prompt_tokens for each in episodes),
        uncached_prompt_tokens=fmean(uncached) if len(uncached) == len(episodes) else None,
        completion_tokens=fmean(each.completion_tokens for each in episodes),
        seconds=fmean(each.seconds for each in episodes),
        learning_tokens=_count_learning_tokens(arm, episodes, store),
        refused=sum(each.refused for each in episodes),
        without_skill=0 if arm.adapter is Adapter.BASE else sum(each.model in base for each in episodes),
        strict_by_world={world: fmean(each.strict for each in episodes if each.world == world) for world in worlds},
    )


def _count_learning_tokens(arm: Arm, episodes: Sequence[EpisodeRecord], store: ResultStore) -> float | None:
    """Return the tokens of learning of a world and seed, on average."""
    counts = []
    for (world, seed), trained in {(each.world, each.seed): each.trained_tokens for each in episodes}.items():
        if trained is None:
            return None
        memory = store.memories.get(MemoryKey(world, seed, arm.system.name, str(arm.writer)))
        counts.append(trained + (memory.tokens if memory else 0))
    return fmean(counts)
