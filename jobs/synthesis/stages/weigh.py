"""The last stage: compute the loss weight of each step from the weights of the episode and of the step.

``pipeline/stages.py`` calls it after all other stages of a task. The training data renders these weights.
"""

from dataclasses import replace

from looper.jobs.synthesis.draft import Draft, DraftStep

STAGE = "weigh"


def weigh(draft: Draft) -> Draft:
    """Set the loss weight of each step to the episode's weight times the step's, and reject episodes without weight.

    Only steps of the agent are learned. A greeting before the first message of the user or the first tool result is
    not.

    Args:
        draft: The episode after all other stages.

    Returns:
        The draft with final weights, rejected as ``nothing_to_learn`` if all are 0.
    """
    start = next(
        (index for index, step in enumerate(draft.steps) if step.step.source in ("user", "tool")), len(draft.steps)
    )

    def final_weight(index: int, step: DraftStep) -> float:
        return step.weight * draft.weight if step.step.source == "agent" and index >= start else 0.0

    weights = [final_weight(index, step) for index, step in enumerate(draft.steps)]
    steps = (
        step if step.weight == weight else replace(step, weight=weight)
        for step, weight in zip(draft.steps, weights, strict=True)
    )
    weighed = draft.with_steps(tuple(steps))
    if draft.rejected or any(step.weight for step in weighed.steps):
        return weighed
    return weighed.reject(STAGE, "nothing_to_learn", "no step of the agent is left that has a weight above 0")
