"""Renders a draft as an example: chat turns, each with a loss weight. The base model is not known here.

``output_files.py`` renders examples, ``stages/preference_pairs.py`` the turns of pairs.
"""

from collections.abc import Iterable

from looper.jobs.synthesis.draft import Draft, DraftStep
from looper.platform.domain.example import Example, Turn

_ROLES = {"system": "system", "developer": "developer", "user": "user", "agent": "assistant", "tool": "tool"}


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
    """Render steps as chat turns, one for each step, as a client would send them.

    Tool calls that the user made and their results are left out, and so are turns without text and calls.

    Args:
        steps: Steps of a draft.

    Returns:
        The turns.
    """
    return tuple(turn for turn in map(_render_turn, steps) if turn is not None)


def _render_turn(draft_step: DraftStep) -> Turn | None:
    step = draft_step.step
    if step.source == "tool":
        return None if step.requestor == "user" else Turn(role="tool", content=step.content, call_id=step.call_id)
    is_agent = step.source == "agent"
    calls = step.tool_calls if is_agent else ()
    if not step.content.strip() and not calls:
        return None
    return Turn(
        role=_ROLES[step.source],
        content=step.content,
        reasoning=step.reasoning,
        tool_calls=calls,
        weight=draft_step.weight if is_agent else 0.0,
    )
