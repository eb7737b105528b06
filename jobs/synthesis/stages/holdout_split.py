"""Which tasks are held out. A task is on one side with all of its trajectories, so that nothing held out is trained."""

import hashlib
from collections.abc import Collection


def is_holdout(task_id: str, share: float) -> bool:
    """Whether a task is held out, by its id alone: the same on every machine and in every later consolidation."""
    return _place(task_id) < share


def holdout_tasks(task_ids: Collection[str], share: float) -> frozenset[str]:
    """The tasks held out of ``task_ids``: those of ``is_holdout``, but with two tasks or more at least one a side.

    If none falls below ``share``, the one nearest to it is held out; if all do, the one furthest from 0 is trained.
    A single task is trained.
    """
    tasks = sorted(set(task_ids), key=lambda task: (_place(task), task))
    if len(tasks) < 2:
        return frozenset()
    held = sum(is_holdout(task, share) for task in tasks)
    return frozenset(tasks[: min(max(held, 1), len(tasks) - 1)])


def _place(task_id: str) -> float:
    """A number from 0 to 1, spread evenly over task ids."""
    return int(hashlib.sha256(task_id.encode()).hexdigest()[:8], 16) / 2**32
