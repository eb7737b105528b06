"""Many sessions in a row: what is learned once is not lost bit by bit, and a skill that keeps it goes on."""

from random import Random

import pytest

from looper.jobs.consolidation.evaluation.heldout import MAX_SESSIONS, take_turns
from looper.jobs.consolidation.evaluation.high_water_marks import HighWaterMarks, WindowKey
from looper.platform.domain.scores import TaskCounts
from tests.jobs.gate.lineage import MAX_FALL, TASKS, Version, live, worst_fall

SESSIONS = 50


@pytest.mark.parametrize("earlier", MAX_FALL)
def test_a_skill_that_loses_2_points_a_session_is_stopped(earlier: int) -> None:
    falls = [worst_fall(live(0.02, 0.0, seed, sessions=SESSIONS, earlier=earlier)) for seed in range(20)]
    assert max(falls) <= MAX_FALL[earlier]


@pytest.mark.parametrize("forgets", [0.04, 0.07, 0.3])
def test_whatever_share_is_forgotten_each_time(forgets: float) -> None:
    assert max(worst_fall(live(forgets, 0.0, seed, sessions=SESSIONS, earlier=30)) for seed in range(8)) <= 0.15


def test_against_the_parent_it_would_drift_away() -> None:
    assert worst_fall(live(0.07, 0.0, 0, sessions=SESSIONS, earlier=30, against_parent=True)) > 0.3


def test_if_each_attempt_drew_other_windows_it_would_drift_on() -> None:
    """A new draw for each attempt sooner or later finds few of what was forgotten, and the first windows hide it."""
    rng = Random(0)

    def draw(start: Version, count: int) -> list[WindowKey]:
        sessions = list(start.accuracies())
        chosen = rng.sample(sessions, min(len(sessions), MAX_SESSIONS))
        return take_turns([[WindowKey(each, i) for i in range(TASKS)] for each in chosen], count, lambda _: 1)

    falls = [worst_fall(live(0.02, 0.0, seed, sessions=SESSIONS, earlier=30, draw=draw)) for seed in range(8)]
    assert max(falls) > 1.5 * MAX_FALL[30]


@pytest.mark.parametrize("seed", range(3))
def test_a_skill_that_keeps_what_it_knows_goes_on(seed: int) -> None:
    assert len(live(0.0, 0.0, seed, sessions=SESSIONS, earlier=30)) == SESSIONS
    assert len(live(0.002, 0.1, seed, sessions=SESSIONS, earlier=30)) > 0.75 * SESSIONS


def test_marks_rise_to_a_version_and_never_to_a_mixture() -> None:
    def results(*right: int, session: str = "a") -> dict[WindowKey, TaskCounts]:
        return {
            WindowKey(session, i): TaskCounts(actions=2, right=n, loss=3 - n, weight=2) for i, n in enumerate(right)
        }

    def best(marks: HighWaterMarks) -> list[int]:
        return [counts.right for counts in marks.sessions["a"].values()]

    first = HighWaterMarks().raise_to(results(2, 0, 1))
    assert best(first) == [2, 0, 1]
    assert best(first.raise_to(results(0, 2, 0))) == [2, 0, 1], "fewer in all"
    assert best(first.raise_to(results(0, 2, 2))) == [0, 2, 2]
    assert best(first.raise_to(results(1, 2))) == [1, 2, 1], "only on the windows that were asked"
    assert best(first.raise_to(results(0, 0, 0, 2))) == [2, 0, 1, 2], "a new window gets a mark, the others stay"
    other = first.raise_to(results(1, session="b"))
    assert other.sessions["a"] == first.sessions["a"]
    assert HighWaterMarks.model_validate_json(other.model_dump_json()) == other
