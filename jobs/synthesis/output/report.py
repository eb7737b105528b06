"""What became of a consolidation's trajectories: counts that add up, reasons, and samples before and after."""

from collections import Counter
from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict

from looper.jobs.synthesis.draft import Draft, Placed
from looper.jobs.synthesis.output.window_statistics import Packing
from looper.jobs.synthesis.pipeline.stages import TaskDrafts

SAMPLES = 6
"""Episodes that a report shows before and after: of those that most was found out about."""
LONGEST = 600
"""Characters of a step that a sample shows."""


class Shown(BaseModel):
    """One step of a sample."""

    model_config = ConfigDict(frozen=True)

    place: int
    source: str
    text: str
    error: str | None = None
    weight: float | None = None
    """None: it was dropped."""


class Sample(BaseModel):
    """One episode as it was read, each step with what became of it, and what was found out."""

    model_config = ConfigDict(frozen=True)

    trajectory_id: str
    task_id: str
    grade: str | None
    rejected: str | None
    steps: tuple[Shown, ...]
    verdicts: tuple[str, ...]


class VerdictCounts(BaseModel):
    """Counts over some of a consolidation's trajectories; those of all its parts add up to the whole's."""

    trajectories: int = 0
    kept: int = 0
    rejected: Counter[str] = Counter()
    """By reason."""
    grades: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    """Tools' answers by the kind of error."""
    found: Counter[str] = Counter()
    """Verdicts, as ``stage: what``."""
    steps_read: int = 0
    steps_kept: int = 0
    """Of trajectories that are kept."""
    turns_learned: int = 0
    turns_as_context: int = 0
    """Of the agent's, with weight 0."""
    characters_read: int = 0
    characters_kept: int = 0
    pairs: int = 0
    leaks: Counter[str] = Counter()
    """Tasks that go by another's name, and how many episodes each has."""
    samples: list[Sample] = []

    def __add__(self, other: "VerdictCounts") -> "VerdictCounts":
        mine, theirs = dict(self), dict(other)
        both = {name: mine[name] + theirs[name] for name in mine if name != "samples"}
        return VerdictCounts(**both, samples=_best([*self.samples, *other.samples]))


class SynthesisReport(BaseModel):
    """``trajectories == train + holdout + sum(rejected.values())``."""

    model_config = ConfigDict(frozen=True)

    trajectories: int
    train: int
    holdout: int
    rejected: dict[str, int]
    failure: str | None
    """Why there is nothing to train on, in one line, or None."""
    tally: VerdictCounts
    beside: dict[str, int] = {}
    """Files beside the examples that are not trained on, and how many entries each has."""
    packing: Packing | None = None
    """Of some of the examples to train on, where the base is at hand."""


def tally(tasks: Iterable[TaskDrafts]) -> VerdictCounts:
    found = VerdictCounts()
    for task in tasks:
        found.pairs += len(task.pairs)
        for draft in task.drafts:
            _count(found, draft)
            if draft.source.task_id != task.name:
                found.leaks[draft.source.task_id] += 1
        found.samples = _best([*found.samples, *(_sample(draft) for draft in task.drafts if draft.verdicts)])
    return found


def _count(found: VerdictCounts, draft: Draft) -> None:
    found.trajectories += 1
    found.steps_read += len(draft.source.steps)
    found.characters_read += sum(len(step.content) for step in draft.source.steps)
    found.grades[draft.grade or "none"] += 1
    found.found.update(f"{verdict.stage}: {verdict.what}" for verdict in draft.verdicts if verdict.stage != "grade")
    found.errors.update(verdict.what for verdict in draft.verdicts if verdict.stage == "errors")
    if draft.rejected:
        found.rejected[draft.rejected] += 1
        return
    found.kept += 1
    found.steps_kept += len(draft.steps)
    found.characters_kept += sum(len(each.step.content) for each in draft.steps)
    agents = [each.weight > 0 for each in draft.steps if each.step.source == "agent"]
    found.turns_learned += sum(agents)
    found.turns_as_context += len(agents) - sum(agents)


def _best(samples: Sequence[Sample]) -> list[Sample]:
    """Those with the most kinds of findings, both kept and rejected; in whatever order they come, the same."""
    order = sorted(
        samples, key=lambda sample: (-len({v.partition(" (")[0] for v in sample.verdicts}), sample.trajectory_id)
    )
    kept, rejected = ([each for each in order if bool(each.rejected) is which] for which in (False, True))
    return [*kept[: SAMPLES - SAMPLES // 3], *rejected[: SAMPLES // 3]]


def _sample(draft: Draft) -> Sample:
    now = {each.place: each for each in draft.steps}
    return Sample(
        trajectory_id=draft.source.id,
        task_id=draft.source.task_id,
        grade=draft.grade,
        rejected=draft.rejected,
        steps=tuple(_shown(draft, place, now.get(place)) for place in range(len(draft.source.steps))),
        verdicts=tuple(
            f"{verdict.stage}: {verdict.what}"
            + (f" (step {verdict.step})" if verdict.step is not None else "")
            + f": {verdict.detail}"
            for verdict in draft.verdicts
        ),
    )


def _shown(draft: Draft, place: int, now: Placed | None) -> Shown:
    """What was scrubbed is shown scrubbed: a report must not keep what the examples have lost."""
    step = now.step if now else draft.source.steps[place]
    calls = "".join(f"\n{call.name} {call.arguments}" for call in step.tool_calls)
    text = f"{step.content}{calls}".strip() if now else "(dropped)"
    return Shown(
        place=place,
        source=step.source,
        text=text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…",
        error=now.error if now else None,
        weight=now.weight if now else None,
    )
