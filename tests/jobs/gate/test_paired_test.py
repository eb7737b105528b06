"""The paired test: its probabilities are exact, and its error rate is at most the stated one."""

from itertools import product
from math import comb

import pytest

from looper.jobs.gate.paired_test import compare_paired, to_steps


def enumerate_signs(differences: list[int], net: int) -> float:
    """Return the probability of at least ``net`` by trying all signs."""
    sums = [
        sum(s * d for s, d in zip(signs, differences, strict=True))
        for signs in product((1, -1), repeat=len(differences))
    ]
    return sum(each >= net for each in sums) / len(sums)


@pytest.mark.parametrize(
    "differences", [[1], [-1], [0, 0], [1, 1, 1, 1, 1], [2, -1, 0, 3, 1], [-2, -2, 1], [4, 1, 1, -3, 2, 2, -1, 5], []]
)
def test_probabilities_are_those_of_all_signs(differences: list[int]) -> None:
    found = compare_paired(differences, 0.035)
    assert found.p_better == pytest.approx(enumerate_signs(differences, sum(differences)), abs=1e-12)
    assert found.p_worse == pytest.approx(enumerate_signs(differences, -sum(differences)), abs=1e-12)
    assert (found.tasks, found.net) == (len(differences), sum(differences))
    assert (found.better, found.worse) == (sum(d > 0 for d in differences), sum(d < 0 for d in differences))


@pytest.mark.parametrize(("better", "worse"), [(5, 0), (7, 2), (30, 12), (1, 1)])
def test_with_one_action_a_task_it_is_mcnemars_exact_test(better: int, worse: int) -> None:
    found = compare_paired([1] * better + [-1] * worse + [0] * 9, 0.035)
    changed = better + worse
    expected = sum(comb(changed, k) for k in range(better, changed + 1)) / 2**changed
    assert found.p_better == pytest.approx(expected, abs=1e-12)


def test_hundreds_of_tasks_with_losses_take_no_time() -> None:
    steps = to_steps([0.5 - i / 300 for i in range(300)])
    found = compare_paired(steps, 0.035)
    assert max(map(abs, steps)) == 1000
    assert 0.4 < found.p_better < 0.6
    assert to_steps([0.0, 0.0]) == [0, 0]


def test_the_number_of_tasks_that_would_suffice_is_estimated() -> None:
    def needed(*differences: int) -> int | None:
        return compare_paired(differences, 0.035).needed

    assert needed(1, 0, 0) is not None
    assert 15 <= (needed(1, 0, 0) or 0) <= 30, "five changed tasks of three times as many, and some for bad luck"
    assert (needed(1, 0, 0, 0, 0, 0) or 0) > (needed(1, 0, 0) or 0)
    assert needed(1, 1) == 5, "with fewer than five changed tasks, nothing is evidence"
    assert needed(*[1] * 9, 0) == 6, "of six such tasks, five change"
    assert needed(1, -1) is None
    assert needed(0, 0) is None
    assert needed(-1) is None
