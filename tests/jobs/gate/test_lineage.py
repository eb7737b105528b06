"""Many sessions in a row: what is learned once is not lost bit by bit, and a skill that keeps it goes on."""

from dataclasses import dataclass, field
from random import Random

import pytest

from looper.jobs.consolidation.evaluation.heldout import MAX_SESSIONS
from looper.jobs.consolidation.evaluation.high_water_marks import HighWaterMarks, WindowKey
from looper.jobs.gate.judge import judge_candidate
from looper.platform.domain.scores import TaskCounts
from looper.platform.settings import GateSettings
from tests.jobs.gate.simulation import Pair, scores_of

SESSIONS = 43
TASKS = 15
"""Held-out tasks of a session, with an action each: what fits into the tokens of a candidate's own session."""

FIRST = {f"session {number}" for number in range(5)}

EARLIER_TASKS = 30
"""What fits into the tokens of all earlier sessions."""


@dataclass
class Version:
    """What a version can do: whether it gets the action of each task right."""

    knows: dict[WindowKey, bool] = field(default_factory=dict)
    marks: HighWaterMarks = field(default_factory=HighWaterMarks)

    def counts(self, key: WindowKey) -> TaskCounts:
        return TaskCounts(actions=1, right=self.knows[key], loss=1, weight=1)

    def accuracy(self) -> float:
        """Return the accuracy on the first sessions, which had most time to be forgotten."""
        first = [right for key, right in self.knows.items() if key.session in FIRST]
        return sum(first) / len(first)


def train(parent: Version, session: str, rng: Random, forgets: float, recovers: float) -> Version:
    """Make a version that gets 90 % of its own tasks right, forgets a share of the others, and recovers some."""
    knows = {key: rng.random() >= forgets if right else rng.random() < recovers for key, right in parent.knows.items()}
    return Version(knows | {WindowKey(session, i): rng.random() < 0.9 for i in range(TASKS)})


def choose_windows(version: Version, rng: Random) -> list[WindowKey]:
    """Choose as ``heldout.py`` does: random sessions, and the first windows of each."""
    sessions = sorted({key.session for key in version.knows})
    chosen = rng.sample(sessions, min(len(sessions), MAX_SESSIONS))
    of_each = min(TASKS, EARLIER_TASKS // len(chosen))
    return [WindowKey(each, i) for each in chosen for i in range(of_each)]


def live(forgets: float, recovers: float, seed: int, *, against_parent: bool = False) -> list[Version]:
    """Let the real gate and the real marks decide about a version for each session; return those that reach prod."""
    rng = Random(seed)
    prod = Version()
    served: list[Version] = []
    for number in range(SESSIONS):
        session = f"session {number}"
        candidate = train(prod, session, rng, forgets, recovers)
        new = [key for key in candidate.knows if key.session == session]
        asked = choose_windows(prod, rng) if prod.knows else []
        best = {key: prod.knows[key] if against_parent else _best(prod, key) for key in asked}
        earlier: list[Pair] = [(1, candidate.knows[key], best[key]) for key in asked]
        verdict = judge_candidate(scores_of([(1, candidate.knows[key], 0) for key in new], earlier), GateSettings())
        if verdict.passed:
            candidate.marks = prod.marks.raise_to({key: candidate.counts(key) for key in (*asked, *new)})
            prod = candidate
            served.append(prod)
    return served


def _best(version: Version, key: WindowKey) -> int:
    return version.marks.sessions[key.session][key.number].right


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("forgets", "at_least"), [(0.02, 0.55), (0.07, 0.42), (0.3, 0.55)])
def test_accuracy_on_earlier_work_does_not_drift_away(forgets: float, at_least: float, seed: int) -> None:
    """A candidate that is undecided or refused leaves prod as it is, and the next one tries again from there."""
    assert min(version.accuracy() for version in live(forgets, 0.0, seed)) > at_least


def test_against_the_parent_it_would_drift_away() -> None:
    assert live(0.07, 0.0, 0, against_parent=True)[-1].accuracy() < 0.2


@pytest.mark.parametrize("seed", range(3))
def test_a_skill_that_keeps_what_it_knows_goes_on(seed: int) -> None:
    assert len(live(0.0, 0.0, seed)) == SESSIONS
    served = live(0.005, 0.05, seed)
    assert len(served) > 0.75 * SESSIONS
    assert served[-1].accuracy() > 0.8


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
