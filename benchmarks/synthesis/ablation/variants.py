"""Make training data of the same trajectories in several ways: with all stages, with one stage less, or with none.

``bench.py`` trains on the examples, and ``report.py`` compares them.
"""

from collections.abc import Sequence

from looper.jobs.synthesis.output.render import render_example
from looper.jobs.synthesis.pipeline.stages import OPTIONAL_STAGES, run_all_stages
from looper.platform.domain.example import Example
from looper.platform.domain.trajectory import Trajectory

FULL = "full"
"""The whole pipeline."""
SUCCESSES_ONLY = "successes only"
"""No optional stage: the successes are trained on as they are."""
DISABLED_STAGES = {FULL: (), SUCCESSES_ONLY: OPTIONAL_STAGES} | {
    f"full without {stage}": (stage,) for stage in OPTIONAL_STAGES if stage != "pairs"
}
"""Disabled stages of each variant. The stage ``pairs`` is not disabled alone, because it makes no examples."""


def build_examples(variant: str, trajectories: Sequence[Trajectory]) -> list[Example]:
    """Make the training examples of a variant.

    Args:
        variant: A key of ``DISABLED_STAGES``.
        trajectories: The trajectories of one source.

    Returns:
        The examples that the variant trains on.
    """
    tasks = run_all_stages([trajectories], DISABLED_STAGES[variant])
    return [render_example(draft) for task in tasks for draft in task.drafts if not draft.rejected]
