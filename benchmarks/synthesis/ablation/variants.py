"""Training data from one and the same trajectories, made in several ways."""

from collections.abc import Sequence

from looper.jobs.synthesis.output.render import render
from looper.jobs.synthesis.pipeline.stages import STAGES, refine
from looper.platform.domain.example import Example
from looper.platform.domain.trajectory import Trajectory

FULL, SUCCESSES = "full", "successes only"
WITHOUT = {FULL: (), SUCCESSES: STAGES} | {f"full without {stage}": (stage,) for stage in STAGES if stage != "pairs"}
"""What each variant leaves out. Without any stage, what succeeded is learned as it is. ``pairs`` makes no examples."""


def examples(variant: str, trajectories: Sequence[Trajectory]) -> list[Example]:
    """What ``variant`` trains on, of the trajectories of one source."""
    tasks = refine([trajectories], WITHOUT[variant])
    return [render(draft) for task in tasks for draft in task.drafts if not draft.rejected]
