"""The stages of synthesis that need no language model, in order. Each is a plain function without I/O.

Stages of one episode come first: scrubbing before all others, so that no verdict quotes personal data or secrets; then
the errors are classified, because grading and pruning need their kinds. Stages of one task follow. They need the tool
habits of the whole instance.

``run.py`` runs these stages with Ray Data over many instances; ``run_all_stages`` runs them in a loop for one.
"""

import traceback
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from looper.jobs.synthesis.draft import Draft, StageVerdict
from looper.jobs.synthesis.stages.check_schema import check_schema
from looper.jobs.synthesis.stages.classify_errors import classify_errors
from looper.jobs.synthesis.stages.credit import (
    ToolHabits,
    assign_step_credit,
    downweight_contradicted_successes,
    downweight_lucky_success,
    successful_tools,
)
from looper.jobs.synthesis.stages.duplicates import drop_duplicates
from looper.jobs.synthesis.stages.grade import grade, select_by_label
from looper.jobs.synthesis.stages.preference_pairs import PreferencePair, find_preference_pairs
from looper.jobs.synthesis.stages.prune import prune
from looper.jobs.synthesis.stages.scrub import scrub
from looper.jobs.synthesis.stages.segment import segment
from looper.jobs.synthesis.stages.task_leaks import STAGE as LEAK_STAGE
from looper.jobs.synthesis.stages.task_leaks import (
    canonical_task_names,
    digest_request,
    find_possible_leaks,
    find_similar_tasks,
    request_words,
)
from looper.jobs.synthesis.stages.weigh import weigh
from looper.platform.domain.trajectory import Trajectory
from looper.platform.settings import SynthesisStage

EPISODE_STAGES: Mapping[SynthesisStage, Callable[[Draft], Draft]] = {
    "scrub": scrub,
    "schema": check_schema,
    "errors": classify_errors,
    "grade": grade,
    "segment": segment,
    "prune": prune,
}
"""The stages of one episode, by name, in the order in which they run."""

OPTIONAL_STAGES: tuple[SynthesisStage, ...] = (*EPISODE_STAGES, "credit", "duplicates", "pairs")
"""All stages that the setting ``synthesis.disabled_stages`` can turn off, in the order in which they run.

A test holds it equal to ``SynthesisStage`` of the settings.
"""


@dataclass(frozen=True)
class TaskDrafts:
    """The result of the stages for the episodes of one task."""

    name: str
    """Canonical name of the task."""
    drafts: tuple[Draft, ...]
    """All drafts of the task, rejected ones included, ordered by trajectory id."""
    pairs: tuple[PreferencePair, ...]
    """Preference pairs of the task."""


def drafts_from_batch(batch: Sequence[Trajectory]) -> list[Draft]:
    """Create the drafts of the trajectories of one source file.

    Args:
        batch: All trajectories of the file.

    Returns:
        One draft for each trajectory, in the same order.
    """
    has_labels = any(trajectory.outcome.success is not None for trajectory in batch)
    return [Draft.from_trajectory(trajectory, has_labels=has_labels) for trajectory in batch]


def run_episode_stages(draft: Draft, disabled_stages: Collection[str] = ()) -> Draft:
    """Run the stages that see one episode.

    If a stage raises an exception, the draft is rejected with the code ``broke_a_stage``. Other drafts are not
    affected.

    Args:
        draft: The draft of one episode, before any stage.
        disabled_stages: Names of stages to leave out. Without the grade stage, episodes are selected by their labels.

    Returns:
        The draft after the stages.
    """
    for name, stage in EPISODE_STAGES.items():
        try:
            if name not in disabled_stages:
                draft = stage(draft)
            elif name == "grade":
                draft = select_by_label(draft)
        except Exception as error:
            return draft.reject(name, "broke_a_stage", _describe_exception(error))
    return draft


def _describe_exception(error: Exception) -> str:
    """Name the type of an exception and its place in the code. Its message is left out, as it may quote the episode."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"


def run_task_stages(
    name: str,
    drafts: Sequence[Draft],
    habits: ToolHabits,
    task_names: Mapping[str, str],
    disabled_stages: Collection[str] = (),
) -> TaskDrafts:
    """Run the stages that see all episodes of one task.

    Args:
        name: Canonical name of the task.
        drafts: All drafts of the task, after the episode stages. Some sources may use another name for the task.
        habits: Tool habits of the whole instance.
        task_names: Canonical name of each task that has several names.
        disabled_stages: Names of stages to leave out.

    Returns:
        The drafts after the stages, and the preference pairs.
    """
    drafts = sorted((_note_leak(draft, task_names) for draft in drafts), key=lambda draft: draft.source.id)
    if "credit" not in disabled_stages:
        discounted = [downweight_lucky_success(draft, habits) for draft in drafts]
        drafts = assign_step_credit(downweight_contradicted_successes(discounted))
    pairs = () if "pairs" in disabled_stages else tuple(find_preference_pairs(drafts))
    if "duplicates" not in disabled_stages:
        drafts = drop_duplicates(drafts)
    return TaskDrafts(name, tuple(weigh(draft) for draft in drafts), pairs)


def run_all_stages(batches: Iterable[Sequence[Trajectory]], disabled_stages: Collection[str] = ()) -> list[TaskDrafts]:
    """Run all stages for one instance in this process.

    Args:
        batches: The trajectories of each source file of the instance.
        disabled_stages: Names of stages to leave out.

    Returns:
        The result for each task, ordered by task name.
    """
    drafts = [run_episode_stages(draft, disabled_stages) for batch in batches for draft in drafts_from_batch(batch)]
    habits = ToolHabits.from_tool_sequences(filter(None, map(successful_tools, drafts)))
    task_names = _find_task_names(drafts)
    by_task: defaultdict[str, list[Draft]] = defaultdict(list)
    for draft in drafts:
        by_task[task_names.get(draft.source.task_id, draft.source.task_id)].append(draft)
    return [run_task_stages(name, by_task[name], habits, task_names, disabled_stages) for name in sorted(by_task)]


def _find_task_names(drafts: Sequence[Draft]) -> dict[str, str]:
    """Return the canonical name of each task that has several names."""
    requests = [(draft.source.task_id, digest_request(draft)) for draft in drafts]
    possible_leaks = find_possible_leaks(requests)
    texts = (
        (task, digests.identifier_digest, request_words(draft))
        for draft, (task, digests) in zip(drafts, requests, strict=True)
        if task in possible_leaks
    )
    return canonical_task_names(((task, digests.text_digest) for task, digests in requests), find_similar_tasks(texts))


def _note_leak(draft: Draft, task_names: Mapping[str, str]) -> Draft:
    name = task_names.get(draft.source.task_id)
    if name is None:
        return draft
    detail = f"task {draft.source.task_id} has the same request as {name}: both count as one task"
    return replace(draft, verdicts=(*draft.verdicts, StageVerdict(LEAK_STAGE, "leak", detail)))
