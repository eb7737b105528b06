"""How much is learned of each step: the episode's weight times the step's."""

from dataclasses import replace

from looper.jobs.synthesis.draft import Draft, Placed

STAGE = "weigh"


def weigh(draft: Draft) -> Draft:
    """Only what the agent said and did is learned, and nothing that it said before anybody spoke."""
    spoken = next((at for at, each in enumerate(draft.steps) if each.step.source in ("user", "tool")), len(draft.steps))

    def weight(at: int, each: Placed) -> float:
        return each.weight * draft.weight if each.step.source == "agent" and at >= spoken else 0.0

    weights = [weight(at, each) for at, each in enumerate(draft.steps)]
    steps = (
        each if each.weight == new else replace(each, weight=new)
        for each, new in zip(draft.steps, weights, strict=True)
    )
    weighed = draft.with_steps(tuple(steps))
    if draft.rejected or any(each.weight for each in weighed.steps):
        return weighed
    return weighed.reject(STAGE, "nothing_to_learn", "no turn of the agent is left that is learned")
