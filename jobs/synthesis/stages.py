"""The stages between a trajectory and an example: plain functions without I/O.

A stage either keeps a trajectory or says in one stable word why not. ``run.py`` puts them in order and counts.
"""

import hashlib
from collections.abc import Iterable, Sequence

import orjson

from looper.platform.domain.example import Example, Turn
from looper.platform.domain.trajectory import Step, Trajectory

FAILED = "failed"
UNLABELLED = "unlabelled"
REPEATED = "repeated"
NO_AGENT_TURN = "no_agent_turn"

_ROLES = {"system": "system", "user": "user", "agent": "assistant", "tool": "tool"}


def judge_outcomes(batch: Sequence[Trajectory]) -> list[str | None]:
    """Per trajectory of one batch, why its outcome keeps it out of training, or None.

    What succeeded is kept. Trajectories without a label are kept if their whole batch (one source file) has none, as
    demonstrations have; beside labelled ones, a missing label says that the episode was never judged.
    """
    labelled = any(trajectory.outcome.success is not None for trajectory in batch)

    def reason(success: bool | None) -> str | None:
        if success is None:
            return UNLABELLED if labelled else None
        return None if success else FAILED

    return [reason(trajectory.outcome.success) for trajectory in batch]


def render(trajectory: Trajectory) -> Example | None:
    """The episode as chat turns, the agent's with weight 1; None if there is no agent's turn to learn.

    Left out: the user's own tool calls and what they returned, and turns that say and do nothing. Turns of one speaker
    in a row become one, as chat templates expect. What the agent says before anybody spoke answers nothing: context.
    """
    turns: list[Turn] = []
    for step in trajectory.steps:
        turn = _turn(step)
        if turn is not None:
            turns = [*turns[:-1], _join(turns[-1], turn)] if turns and _same_turn(turns[-1], turn) else [*turns, turn]
    if turns and turns[0].role == "assistant":
        turns[0] = turns[0].model_copy(update={"weight": 0.0})
    if not any(turn.weight for turn in turns):
        return None
    return Example(
        id=trajectory.id,
        trajectory_id=trajectory.id,
        task_id=trajectory.task_id,
        turns=tuple(turns),
        tools=trajectory.tools,
    )


def fingerprint(example: Example) -> str:
    """The same for examples whose texts and tool calls are the same, whatever their task, ids and times."""
    turns = [
        [turn.role, turn.content, [[call.name, call.arguments] for call in turn.tool_calls]] for turn in example.turns
    ]
    return hashlib.sha256(orjson.dumps([turns, example.tools])).hexdigest()


def drop_repeats(fingerprints: Iterable[str]) -> list[str | None]:
    """Per fingerprint ``REPEATED`` if it came before, else None."""
    seen: set[str] = set()
    reasons: list[str | None] = []
    for value in fingerprints:
        reasons.append(REPEATED if value in seen else None)
        seen.add(value)
    return reasons


def _turn(step: Step) -> Turn | None:
    if step.source == "tool":
        if step.requestor == "user":
            return None
        return Turn(role="tool", content=step.content, call_id=step.call_id)
    calls = step.tool_calls if step.source == "agent" else ()
    if not step.content.strip() and not calls:
        return None
    weight = 1.0 if step.source == "agent" else 0.0
    return Turn(role=_ROLES[step.source], content=step.content, tool_calls=calls, weight=weight)


def _same_turn(before: Turn, after: Turn) -> bool:
    return before.role == after.role and before.role != "tool" and not before.tool_calls


def _join(before: Turn, after: Turn) -> Turn:
    content = "\n".join(text for text in (before.content, after.content) if text)
    return after.model_copy(update={"content": content})
