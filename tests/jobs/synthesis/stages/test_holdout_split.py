import hashlib

from hypothesis import given
from hypothesis import strategies as st

from looper.jobs.synthesis.stages.holdout_split import holdout_tasks, is_holdout


def test_the_hash_of_the_id_decides_whether_a_task_is_held_out() -> None:
    for task in ("a", "b", "airline-17", "ñ"):
        place = int(hashlib.sha256(task.encode()).hexdigest()[:8], 16) / 2**32
        assert is_holdout(task, place + 1e-9)
        assert not is_holdout(task, place)


@given(st.sets(st.text(max_size=20), min_size=2, max_size=40), st.floats(0.01, 0.99))
def test_two_or_more_tasks_give_at_least_one_on_each_side(tasks: set[str], share: float) -> None:
    held = holdout_tasks(tasks, share)
    assert held
    assert held < tasks
    by_hash = {task for task in tasks if is_holdout(task, share)}
    if by_hash and by_hash != tasks:
        assert held == by_hash


def test_a_single_task_is_trained_on() -> None:
    assert holdout_tasks({"only"}, 0.9) == frozenset()


def test_about_the_requested_share_is_held_out() -> None:
    assert 150 < len(holdout_tasks([f"task-{i}" for i in range(1000)], 0.2)) < 250
