"""Renders a draft as an example: chat turns, each with a loss weight. The base model is not known here.

``output_files.py`` renders examples, ``stages/preference_pairs.py`` the turns of pairs.
"""

from collections.abc import Iterable

from looper.jobs.synthesis.draft import Draft, DraftStep
from looper.platform.domain.example import Example, Turn

_ROLES = {"system": "system", "user": "user", "agent": "assistant", "tool": "tool"}


def render_example(draft: Draft) -> Example:
    """Render a draft as an example.

    Args:
        draft: A draft after all stages.

    Returns:
        The example. Its loss weights are those of the draft's steps.
    """
    return Example(
        id=draft.source.id,
        trajectory_id=draft.source.id,
        task_id=draft.source.task_id,
        turns=render_turns(draft.steps),
        tools=draft.source.tools,
    )


def render_turns(steps: Iterable[DraftStep]) -> tuple[Turn, ...]:
    """Render steps as chat turns.

    Tool calls that the user made and their results are left out, and so are turns without text and calls. Consecutive
    turns of the same speaker become one turn, as chat templates expect.

    Args:
        steps: Steps of a draft.

    Returns:
        The turns.
    """
    turns: list[Turn] = []
    for step in steps:
        turn = _render_turn(step)
        if turn is None:
            continue
        if turns and _can_join(turns[-1], turn):
            turns[-1] = _join(turns[-1], turn)
        else:
            turns.append(turn)
    return tuple(turns)


def _render_turn(draft_step: DraftStep) -> Turn | None:
    step = draft_step.step
    if step.source == "tool":
        return None if step.requestor == "user" else Turn(role="tool", content=step.content, call_id=step.call_id)
    calls = step.tool_calls if step.source == "agent" else ()
    if not step.content.strip() and not calls:
        return None
    weight = draft_step.weight if step.source == "agent" else 0.0
    return Turn(role=_ROLES[step.source], content=step.content, tool_calls=calls, weight=weight)


def _can_join(previous: Turn, turn: Turn) -> bool:
    return previous.role == turn.role and previous.role != "tool" and not previous.tool_calls


def _join(previous: Turn, turn: Turn) -> Turn:
    content = "\n".join(text for text in (previous.content, turn.content) if text)
    return turn.model_copy(update={"content": content})
