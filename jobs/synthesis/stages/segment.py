"""Where one stretch of work ends and the next begins."""

from dataclasses import replace

from looper.jobs.synthesis.draft import Draft, Placed


def segment(draft: Draft) -> Draft:
    """Number the stretches: a new one begins where the user speaks after the agent has done something."""
    steps: list[Placed] = []
    number, worked = 0, False
    for each in draft.steps:
        if each.step.source == "user" and worked:
            number, worked = number + 1, False
        worked = worked or bool(each.step.source == "agent" and each.step.tool_calls)
        steps.append(each if each.segment == number else replace(each, segment=number))
    return draft.with_steps(tuple(steps))
