"""The pairs stage: pairs of a preferred and a dispreferred turn, from a success and a failure of the same task.

``pipeline/stages.py`` calls it for each task. ``jobs/consolidation/data/preference.py`` trains on the pairs.
"""

from collections.abc import Sequence
from itertools import islice

from pydantic import BaseModel, ConfigDict

from looper.jobs.synthesis.actions import call_signature
from looper.jobs.synthesis.draft import Draft, DraftStep
from looper.jobs.synthesis.output.render import render_turns
from looper.platform.domain.example import Turn

MAX_PAIRS_PER_TASK = 3


class PreferencePair(BaseModel):
    """Two turns after the same ``prefix``, of which one is preferred."""

    model_config = ConfigDict(frozen=True)

    task_id: str
    """Id of the task."""
    chosen_from: str
    """Id of the trajectory with the preferred turn."""
    rejected_from: str
    """Id of the trajectory with the other turn."""
    prefix: tuple[Turn, ...]
    """The turns before, all with weight 0."""
    chosen: Turn
    """The preferred turn."""
    rejected: Turn
    """The other turn."""
    tools: str | None
    """The list of tools as JSON, or None."""


def find_preference_pairs(task: Sequence[Draft]) -> list[PreferencePair]:
    """Find where failed episodes of a task took another turn than a successful one.

    Args:
        task: All drafts of one task.

    Returns:
        At most ``MAX_PAIRS_PER_TASK`` pairs, each from another failure, in the order of the failures' ids.
    """
    successes = [draft for draft in task if draft.source.outcome.success and not draft.rejected]
    failures = [draft for draft in task if draft.source.outcome.success is False]
    pairs = (_first_pair(failure, successes) for failure in sorted(failures, key=lambda draft: draft.source.id))
    return list(islice((pair for pair in pairs if pair), MAX_PAIRS_PER_TASK))


def _first_pair(failure: Draft, successes: Sequence[Draft]) -> PreferencePair | None:
    return next(filter(None, (_pair(success, failure) for success in successes)), None)


def _pair(success: Draft, failure: Draft) -> PreferencePair | None:
    """Return the first different turns, or None if these are not both the agent's.

    If a tool or the user differs first, the episodes differ for a reason that the agent did not choose.
    """
    if success.source.tools != failure.source.tools:
        return None
    for index, (good, bad) in enumerate(zip(success.steps, failure.steps, strict=False)):
        if _content(good) == _content(bad):
            continue
        is_agent = good.step.source == bad.step.source == "agent"
        if not (is_agent and good.weight):
            return None
        prefix = tuple(turn.model_copy(update={"weight": 0.0}) for turn in render_turns(success.steps[:index]))
        chosen, rejected = render_turns([good]), render_turns([bad])
        if not (prefix and chosen and rejected):
            return None
        return PreferencePair(
            task_id=success.source.task_id,
            chosen_from=success.source.id,
            rejected_from=failure.source.id,
            prefix=prefix,
            chosen=chosen[0],
            rejected=rejected[0],
            tools=success.source.tools,
        )
    return None


def _content(step: DraftStep) -> tuple[str, ...]:
    """Return what a step says and calls. White space and the order of arguments do not matter."""
    return (step.step.source, " ".join(step.step.content.split()), *map(call_signature, step.step.tool_calls))
