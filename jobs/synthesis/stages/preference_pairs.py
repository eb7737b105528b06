"""Contrast: what an episode that succeeded did where one of the same task that failed did something else."""

from collections.abc import Sequence
from itertools import islice

from pydantic import BaseModel, ConfigDict

from looper.jobs.synthesis.actions import signature
from looper.jobs.synthesis.draft import Draft, Placed
from looper.jobs.synthesis.output.render import turns
from looper.platform.domain.example import Turn

MOST_PER_TASK = 3


class Pair(BaseModel):
    """One turn that is preferred to another, after the same ``prefix``."""

    model_config = ConfigDict(frozen=True)

    task_id: str
    chosen_from: str
    rejected_from: str
    """Trajectories."""
    prefix: tuple[Turn, ...]
    chosen: Turn
    rejected: Turn
    tools: str | None


def contrast(task: Sequence[Draft]) -> list[Pair]:
    """At most ``MOST_PER_TASK`` of one task, of different failures first by their ids."""
    successes = [draft for draft in task if draft.source.outcome.success and not draft.rejected]
    failures = [draft for draft in task if draft.source.outcome.success is False]
    found = (_first(failure, successes) for failure in sorted(failures, key=lambda draft: draft.source.id))
    return list(islice((pair for pair in found if pair), MOST_PER_TASK))


def _first(failure: Draft, successes: Sequence[Draft]) -> Pair | None:
    return next(filter(None, (_pair(success, failure) for success in successes)), None)


def _pair(success: Draft, failure: Draft) -> Pair | None:
    """Where they part, if the agent parts them: what a tool or the user says differently is nobody's choice."""
    if success.source.tools != failure.source.tools:
        return None
    for at, (good, bad) in enumerate(zip(success.steps, failure.steps, strict=False)):
        if _said(good) == _said(bad):
            continue
        agents = good.step.source == bad.step.source == "agent"
        if not (agents and good.weight):
            return None
        prefix = tuple(turn.model_copy(update={"weight": 0.0}) for turn in turns(success.steps[:at]))
        chosen, rejected = turns([good]), turns([bad])
        if not (prefix and chosen and rejected):
            return None
        return Pair(
            task_id=success.source.task_id,
            chosen_from=success.source.id,
            rejected_from=failure.source.id,
            prefix=prefix,
            chosen=chosen[0],
            rejected=rejected[0],
            tools=success.source.tools,
        )
    return None


def _said(each: Placed) -> tuple[str, ...]:
    return (each.step.source, " ".join(each.step.content.split()), *map(signature, each.step.tool_calls))
