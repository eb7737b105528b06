import numpy as np
import pytest

from looper.benchmarks.capacity.load.workload import Load, draw


def test_the_same_numbers_give_the_same_requests() -> None:
    load = Load(adapters=8, rate=10, seconds=20)
    assert draw(load) == draw(load)
    assert draw(load) != draw(load.model_copy(update={"seed": 1}))


@pytest.mark.parametrize("cv", [0.5, 1.0, 3.0])
def test_requests_come_at_the_rate_and_as_bursty_as_was_asked(cv: float) -> None:
    asked = draw(Load(adapters=1, rate=50, seconds=400, cv=cv))
    gaps = np.diff([each.at_s for each in asked])
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.1)


def test_adapters_follow_the_power_law() -> None:
    asked = draw(Load(adapters=100, rate=100, seconds=400, alpha=1))
    counts = np.bincount([each.adapter for each in asked if each.adapter is not None], minlength=100)
    assert counts[0] / counts[1] == pytest.approx(2, rel=0.15)
    assert counts[:10].sum() / counts.sum() == pytest.approx(0.565, rel=0.05)  # H(10) / H(100)
    even = draw(Load(adapters=4, rate=100, seconds=400, alpha=0))
    assert np.bincount([each.adapter or 0 for each in even]) / len(even) == pytest.approx(0.25, rel=0.1)


def test_lengths_are_within_their_ranges_and_reach_both_ends() -> None:
    asked = draw(Load(adapters=1, rate=100, seconds=100, prompt=(4, 9), answer=(1, 3)))
    assert {each.prompt for each in asked} == set(range(4, 10))
    assert {each.answer for each in asked} == {1, 2, 3}


def test_without_adapters_requests_are_for_the_base() -> None:
    assert {each.adapter for each in draw(Load(adapters=0, rate=10, seconds=10))} == {None}
