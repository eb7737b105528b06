"""The choice of held-out tasks. All episodes of a task are on one side, so that no held-out task is trained on.

The output of synthesis, the gym and the benchmarks call it. It depends on task ids alone.
"""

import hashlib
from collections.abc import Collection


def is_holdout(task_id: str, share: float) -> bool:
    """Return whether the hash of a task's id puts the task into the held-out share.

    Args:
        task_id: Id of the task.
        share: Share of tasks to hold out, from 0 to 1.

    Returns:
        The same answer on every machine and in every later consolidation.
    """
    return _hash_position(task_id) < share


def holdout_tasks(task_ids: Collection[str], share: float) -> frozenset[str]:
    """Choose the held-out tasks, with at least one task on each side if there are two tasks or more.

    If ``is_holdout`` holds out no task, the one with the smallest hash is held out. If it holds out all, the one with
    the largest hash is trained on. A single task is trained on.

    Args:
        task_ids: Ids of all tasks.
        share: Share of tasks to hold out, from 0 to 1.

    Returns:
        Ids of the held-out tasks.
    """
    tasks = sorted(set(task_ids), key=lambda task: (_hash_position(task), task))
    if len(tasks) < 2:
        return frozenset()
    held_out = sum(is_holdout(task, share) for task in tasks)
    return frozenset(tasks[: min(max(held_out, 1), len(tasks) - 1)])


def _hash_position(task_id: str) -> float:
    """Return a number from 0 to 1 that is distributed evenly over task ids."""
    return int(hashlib.sha256(task_id.encode()).hexdigest()[:8], 16) / 2**32
