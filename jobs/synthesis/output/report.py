"""The report of a consolidation: what happened to its trajectories, as counts that add up, and samples.

``output_files.py`` makes the report, ``publish.py`` writes it, ``report_page.py`` renders it for people. The field
names are those of ``report.json`` and ``tally.json``.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict

from looper.jobs.synthesis.draft import Draft, DraftStep
from looper.jobs.synthesis.output.window_statistics import PackingStatistics
from looper.jobs.synthesis.pipeline.stages import TaskDrafts

MAX_SAMPLES = 6
"""Maximum number of episodes in a report. Those with the most kinds of findings are shown."""
MAX_STEP_CHARACTERS = 600
"""Maximum number of characters of a step in a sample."""


class SampleStep(BaseModel):
    """One step of a sample."""

    model_config = ConfigDict(frozen=True)

    place: int
    """Index of the step in the source trajectory."""
    source: str
    """Who made the step."""
    text: str
    """Content and tool calls after the stages, or "(dropped)"."""
    error: str | None = None
    """Kind of error of a tool result, or None."""
    weight: float | None = None
    """Loss weight, or None if the step was dropped."""


class EpisodeSample(BaseModel):
    """One episode with all steps of its source, what the stages made of each, and their findings."""

    model_config = ConfigDict(frozen=True)

    trajectory_id: str
    """Id of the trajectory."""
    task_id: str
    """Name of the task in the source."""
    grade: str | None
    """How the episode ended, or None if it was not graded."""
    rejected: str | None
    """Why it became no example, in one word, or None."""
    steps: tuple[SampleStep, ...]
    """The steps of the source."""
    verdicts: tuple[str, ...]
    """The findings, one line each."""


class VerdictCounts(BaseModel):
    """Counts over some trajectories of a consolidation. Those of all partitions add up to those of the whole."""

    trajectories: int = 0
    """Trajectories that were read."""
    kept: int = 0
    """Trajectories that became examples."""
    rejected: Counter[str] = Counter()
    """Trajectories that became no examples, by reason."""
    grades: Counter[str] = Counter()
    """Trajectories by grade."""
    errors: Counter[str] = Counter()
    """Tool results by kind of error."""
    found: Counter[str] = Counter()
    """Verdicts, as ``<stage>: <code>``."""
    steps_read: int = 0
    """Steps of all trajectories."""
    steps_kept: int = 0
    """Remaining steps of the trajectories that are kept."""
    turns_learned: int = 0
    """Steps of the agent with a weight above 0."""
    turns_as_context: int = 0
    """Steps of the agent with weight 0."""
    characters_read: int = 0
    """Characters of all steps that were read."""
    characters_kept: int = 0
    """Characters of the steps that are kept."""
    pairs: int = 0
    """Preference pairs."""
    leaks: Counter[str] = Counter()
    """Episodes of tasks that another name is used for, by the name in the source."""
    samples: list[EpisodeSample] = []
    """Some episodes with many findings."""

    def __add__(self, other: "VerdictCounts") -> "VerdictCounts":
        """Add the counts of two parts and choose among their samples.

        Args:
            other: Counts of other trajectories.

        Returns:
            The counts of both.
        """
        mine, theirs = dict(self), dict(other)
        sums = {name: mine[name] + theirs[name] for name in mine if name != "samples"}
        return VerdictCounts(**sums, samples=_choose_samples([*self.samples, *other.samples]))


class SynthesisReport(BaseModel):
    """What happened to the trajectories: ``trajectories == train + holdout + sum(rejected.values())``."""

    model_config = ConfigDict(frozen=True)

    trajectories: int
    """Trajectories that were read."""
    train: int
    """Examples to train on."""
    holdout: int
    """Examples that are held out for the gate."""
    rejected: dict[str, int]
    """Trajectories that became no examples, by reason."""
    failure: str | None
    """Why the consolidation cannot be trained, in one line, or None."""
    tally: VerdictCounts
    """All counts, and samples."""
    beside: dict[str, int] = {}
    """Files next to the examples that are not trained on, with the number of entries of each."""
    packing: PackingStatistics | None = None
    """Token counts of some training examples, if the base model is on the machine."""
    contexts: dict[str, int] = {}
    """How many examples were rendered again, training and held-out ones, by context."""


def count_verdicts(tasks: Iterable[TaskDrafts]) -> VerdictCounts:
    """Count what the stages did.

    Args:
        tasks: The results of the stages for some tasks.

    Returns:
        The counts.
    """
    counts = VerdictCounts()
    for task in tasks:
        counts.pairs += len(task.pairs)
        for draft in task.drafts:
            _count_draft(counts, draft)
            if draft.source.task_id != task.name:
                counts.leaks[draft.source.task_id] += 1
        samples = (_make_sample(draft) for draft in task.drafts if draft.verdicts)
        counts.samples = _choose_samples([*counts.samples, *samples])
    return counts


def _count_draft(counts: VerdictCounts, draft: Draft) -> None:
    counts.trajectories += 1
    counts.steps_read += len(draft.source.steps)
    counts.characters_read += sum(len(step.content) for step in draft.source.steps)
    counts.grades[draft.grade or "none"] += 1
    counts.found.update(f"{verdict.stage}: {verdict.code}" for verdict in draft.verdicts if verdict.stage != "grade")
    counts.errors.update(verdict.code for verdict in draft.verdicts if verdict.stage == "errors")
    if draft.rejected:
        counts.rejected[draft.rejected] += 1
        return
    counts.kept += 1
    counts.steps_kept += len(draft.steps)
    counts.characters_kept += sum(len(step.step.content) for step in draft.steps)
    is_learned = [step.weight > 0 for step in draft.steps if step.step.source == "agent"]
    counts.turns_learned += sum(is_learned)
    counts.turns_as_context += len(is_learned) - sum(is_learned)


def _choose_samples(samples: Sequence[EpisodeSample]) -> list[EpisodeSample]:
    """Choose those with the most kinds of findings, kept and rejected ones. The order of ``samples`` has no effect."""

    def sort_key(sample: EpisodeSample) -> tuple[int, str]:
        return -len({verdict.partition(" (")[0] for verdict in sample.verdicts}), sample.trajectory_id

    ordered = sorted(samples, key=sort_key)
    kept = [sample for sample in ordered if not sample.rejected]
    rejected = [sample for sample in ordered if sample.rejected]
    return [*kept[: MAX_SAMPLES - MAX_SAMPLES // 3], *rejected[: MAX_SAMPLES // 3]]


def _make_sample(draft: Draft) -> EpisodeSample:
    steps = {step.source_index: step for step in draft.steps}
    return EpisodeSample(
        trajectory_id=draft.source.id,
        task_id=draft.source.task_id,
        grade=draft.grade,
        rejected=draft.rejected,
        steps=tuple(_make_sample_step(draft, index, steps.get(index)) for index in range(len(draft.source.steps))),
        verdicts=tuple(
            f"{verdict.stage}: {verdict.code}"
            + (f" (step {verdict.step})" if verdict.step is not None else "")
            + f": {verdict.detail}"
            for verdict in draft.verdicts
        ),
    )


def _make_sample_step(draft: Draft, index: int, draft_step: DraftStep | None) -> SampleStep:
    """Show a step as the stages left it, so that the report keeps nothing that was scrubbed from the examples."""
    step = draft_step.step if draft_step else draft.source.steps[index]
    calls = "".join(f"\n{call.name} {call.arguments}" for call in step.tool_calls)
    text = f"{step.content}{calls}".strip() if draft_step else "(dropped)"
    return SampleStep(
        place=index,
        source=step.source,
        text=text if len(text) <= MAX_STEP_CHARACTERS else f"{text[: MAX_STEP_CHARACTERS - 1]}…",
        error=draft_step.error if draft_step else None,
        weight=draft_step.weight if draft_step else None,
    )
