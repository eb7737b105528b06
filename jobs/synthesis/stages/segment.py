"""The segment stage: number the work segments of an episode, one for each request of the user.

``prune`` and ``credit`` compare actions only within one segment. ``pipeline/stages.py`` calls this stage.
"""

from dataclasses import replace

from looper.jobs.synthesis.draft import Draft, DraftStep


def segment(draft: Draft) -> Draft:
    """Set the segment of each step. A new one starts where the user speaks after the agent has called a tool.

    Args:
        draft: The episode.

    Returns:
        The draft with ``segment`` set on all steps, counted from 0.
    """
    steps: list[DraftStep] = []
    number, has_calls = 0, False
    for step in draft.steps:
        if step.step.source == "user" and has_calls:
            number, has_calls = number + 1, False
        has_calls = has_calls or bool(step.step.source == "agent" and step.step.tool_calls)
        steps.append(step if step.segment == number else replace(step, segment=number))
    return draft.with_steps(tuple(steps))
