"""The stages in their order. Each is a plain function, and each but the choice of outcomes can be left out.

Episode by episode: scrubbed first, so that no verdict quotes what is to leave; then what went wrong is told, because
grades and pruning rest on it. Then, knowing the habits of the whole instance, task by task. ``run.py`` does this with
Ray Data; ``refine`` does it in a loop.
"""

import traceback
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from looper.jobs.synthesis.draft import Draft, StageVerdict
from looper.jobs.synthesis.stages.check_schema import check_schema
from looper.jobs.synthesis.stages.classify_errors import classify_errors
from looper.jobs.synthesis.stages.credit import Habits, attribute, discount_luck, doubt, worked
from looper.jobs.synthesis.stages.duplicates import drop_duplicates
from looper.jobs.synthesis.stages.grade import choose, grade
from looper.jobs.synthesis.stages.preference_pairs import Pair, contrast
from looper.jobs.synthesis.stages.prune import prune
from looper.jobs.synthesis.stages.scrub import scrub
from looper.jobs.synthesis.stages.segment import segment
from looper.jobs.synthesis.stages.task_leaks import STAGE as SPLIT
from looper.jobs.synthesis.stages.task_leaks import alike, asked, doubtful, one_name, words
from looper.jobs.synthesis.stages.weigh import weigh
from looper.platform.domain.trajectory import Trajectory

EPISODE: Mapping[str, Callable[[Draft], Draft]] = {
    "scrub": scrub,
    "schema": check_schema,
    "errors": classify_errors,
    "grade": grade,
    "segment": segment,
    "prune": prune,
}
STAGES = (*EPISODE, "credit", "duplicates", "pairs")
"""All that can be left out."""


@dataclass(frozen=True)
class TaskDrafts:
    """What came of the episodes of one task."""

    name: str
    drafts: tuple[Draft, ...]
    pairs: tuple[Pair, ...]


def drafts_of(batch: Sequence[Trajectory]) -> list[Draft]:
    """Of one source file."""
    labelled = any(trajectory.outcome.success is not None for trajectory in batch)
    return [Draft.of(trajectory, labelled=labelled) for trajectory in batch]


def each(draft: Draft, without: Collection[str] = ()) -> Draft:
    """The stages that see one episode. One that breaks a stage is rejected by it, and stops nobody else."""
    for name, stage in EPISODE.items():
        try:
            if name not in without:
                draft = stage(draft)
            elif name == "grade":
                draft = choose(draft)
        except Exception as error:
            return draft.reject(name, "broke_a_stage", _where(error))
    return draft


def _where(error: Exception) -> str:
    """The kind of error and its place in the code. What it says may quote the episode."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"


def together(
    name: str, drafts: Sequence[Draft], of: Habits, names: Mapping[str, str], without: Collection[str] = ()
) -> TaskDrafts:
    """The stages that see all episodes of one task, which may be called otherwise in some of its sources."""
    found = sorted((_renamed(draft, names) for draft in drafts), key=lambda draft: draft.source.id)
    if "credit" not in without:
        found = attribute(doubt([discount_luck(draft, of) for draft in found]))
    pairs = () if "pairs" in without else tuple(contrast(found))
    if "duplicates" not in without:
        found = drop_duplicates(found)
    return TaskDrafts(name, tuple(weigh(draft) for draft in found), pairs)


def refine(batches: Iterable[Sequence[Trajectory]], without: Collection[str] = ()) -> list[TaskDrafts]:
    """All of it in one process, for one instance: tasks in the order of their names."""
    drafts = [each(draft, without) for batch in batches for draft in drafts_of(batch)]
    of = Habits.of(filter(None, map(worked, drafts)))
    names = _names(drafts)
    tasks: defaultdict[str, list[Draft]] = defaultdict(list)
    for draft in drafts:
        tasks[names.get(draft.source.task_id, draft.source.task_id)].append(draft)
    return [together(name, tasks[name], of, names, without) for name in sorted(tasks)]


def _names(drafts: Sequence[Draft]) -> dict[str, str]:
    found = [(draft.source.task_id, asked(draft)) for draft in drafts]
    doubt = doubtful(found)
    both = zip(drafts, found, strict=True)
    said = ((task, what.marks, words(draft)) for draft, (task, what) in both if task in doubt)
    return one_name(((task, what.same) for task, what in found), alike(said))


def _renamed(draft: Draft, names: Mapping[str, str]) -> Draft:
    name = names.get(draft.source.task_id)
    if name is None:
        return draft
    verdict = StageVerdict(SPLIT, "leak", f"task {draft.source.task_id} asks for what {name} asks for: one task")
    return replace(draft, verdicts=(*draft.verdicts, verdict))
