"""Tests of the paired bootstrap: planted differences are found, chance is not, and tasks count as one."""

import numpy as np
import pytest

from looper.benchmarks.real_tenants.intervals import TaskBootstrap


def plant(shares: tuple[float, float], tasks: int, actions: int, seed: int) -> tuple[list[str], list[np.ndarray]]:
    """Two arms that are right with these probabilities on ``actions`` independent actions of each task."""
    rng = np.random.default_rng(seed)
    names = [f"task-{number}" for number in range(tasks) for _ in range(actions)]
    return names, [(rng.random(len(names)) < share).astype(float) for share in shares]


def test_a_planted_difference_is_found_and_no_difference_is_not() -> None:
    found = {True: 0, False: 0}
    for seed in range(60):
        for is_better in (True, False):
            tasks, (a, b) = plant((0.6, 0.3 if is_better else 0.6), tasks=40, actions=3, seed=seed)
            found[is_better] += TaskBootstrap(tasks).interval(a - b).is_above_zero
    assert found[True] >= 58  # the difference is some five standard errors
    assert found[False] <= 5  # 2.5 % of 60 are 1.5


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    held = 0
    for seed in range(200):
        tasks, (a, _) = plant((0.4, 0.4), tasks=60, actions=2, seed=seed)
        interval = TaskBootstrap(tasks).interval(a)
        held += interval.low <= 0.4 <= interval.high
    assert 180 <= held <= 198


def test_repeated_actions_of_a_task_add_no_certainty() -> None:
    rng = np.random.default_rng(0)
    right = (rng.random(30) < 0.5).astype(float)
    one = TaskBootstrap([f"{number}" for number in range(30)]).interval(right)
    copied = TaskBootstrap([f"{number}" for number in range(30) for _ in range(10)]).interval(np.repeat(right, 10))
    assert copied.mean == pytest.approx(one.mean)
    assert copied.high - copied.low == pytest.approx(one.high - one.low, rel=0.05)
    apart = TaskBootstrap([f"{number}" for number in range(300)]).interval(np.repeat(right, 10))
    assert apart.high - apart.low < 0.5 * (one.high - one.low)


def test_pairing_makes_small_differences_visible() -> None:
    """Arms that agree on nearly all actions differ by a little, surely."""
    tasks, (a, noise) = plant((0.5, 0.15), tasks=100, actions=2, seed=1)
    better = np.maximum(a, noise)
    assert TaskBootstrap(tasks).interval(better - a).is_above_zero
    alone = TaskBootstrap(tasks)
    assert alone.interval(better).low < alone.interval(a).high


def test_the_mean_is_over_actions() -> None:
    interval = TaskBootstrap(["a", "a", "a", "b"]).interval([1.0, 1.0, 1.0, 0.0])
    assert interval.mean == pytest.approx(0.75)
    assert (interval.low, interval.high) == (0.0, 1.0)
    assert str(interval) == "0.750 (0.000 to 1.000)"
