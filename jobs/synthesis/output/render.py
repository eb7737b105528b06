"""From a draft to an example: chat turns with a loss weight each. What base model reads them is not known here."""

from collections.abc import Iterable

from looper.jobs.synthesis.draft import Draft, Placed
from looper.platform.domain.example import Example, Turn

_ROLES = {"system": "system", "user": "user", "agent": "assistant", "tool": "tool"}


def render(draft: Draft) -> Example:
    """The draft's steps as turns; their weights are the example's."""
    return Example(
        id=draft.source.id,
        trajectory_id=draft.source.id,
        task_id=draft.source.task_id,
        turns=turns(draft.steps),
        tools=draft.source.tools,
    )


def turns(steps: Iterable[Placed]) -> tuple[Turn, ...]:
    """Left out: the user's own tool calls and what they returned, and turns that say and do nothing.

    Turns of one speaker in a row become one, as chat templates expect.
    """
    found: list[Turn] = []
    for each in steps:
        turn = _turn(each)
        if turn is not None and found and _same_turn(found[-1], turn):
            found[-1] = _join(found[-1], turn)
        elif turn is not None:
            found.append(turn)
    return tuple(found)


def _turn(each: Placed) -> Turn | None:
    step = each.step
    if step.source == "tool":
        return None if step.requestor == "user" else Turn(role="tool", content=step.content, call_id=step.call_id)
    calls = step.tool_calls if step.source == "agent" else ()
    if not step.content.strip() and not calls:
        return None
    weight = each.weight if step.source == "agent" else 0.0
    return Turn(role=_ROLES[step.source], content=step.content, tool_calls=calls, weight=weight)


def _same_turn(before: Turn, after: Turn) -> bool:
    return before.role == after.role and before.role != "tool" and not before.tool_calls


def _join(before: Turn, after: Turn) -> Turn:
    content = "\n".join(text for text in (before.content, after.content) if text)
    return after.model_copy(update={"content": content})
