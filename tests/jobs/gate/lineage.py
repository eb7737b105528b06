"""Lineages of simulated versions, of which the real gate and the real marks decide who reaches ``prod``.

Each version is trained from the one in ``prod``, learns the tasks of its own session, and forgets some of the others. A
candidate that does not pass leaves ``prod`` as it is, and the next one tries again from there.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from looper.jobs.consolidation.evaluation.heldout import draw_sessions, start_anywhere, take_turns
from looper.jobs.consolidation.evaluation.high_water_marks import HighWaterMarks, WindowKey
from looper.platform.domain.scores import TaskCounts
from looper.platform.settings import GateSettings
from tests.jobs.gate.simulation import decide

TASKS = 15
"""Held-out tasks of a session, with an action each: what fits into the tokens of a candidate's own session."""

LEARNED = 0.9
"""Share of its own tasks that a version gets right."""

MAX_FALL = {15: 0.15, 30: 0.1}
"""How far a version that loses 2 points a session may get below the best ones, by the earlier actions that are asked.
"""


@dataclass
class Version:
    """What a version can do: whether it gets the action of each task right."""

    name: str = ""
    knows: dict[WindowKey, bool] = field(default_factory=dict)
    marks: HighWaterMarks = field(default_factory=HighWaterMarks)

    def accuracies(self) -> dict[str, float]:
        """Return the accuracy on each session, in their order."""
        right: Counter[str] = Counter()
        for (session, _), knows in self.knows.items():
            right[session] += knows
        return {session: count / TASKS for session, count in right.items()}


Draw = Callable[[Version, int], list[WindowKey]]
"""Draws so many windows of earlier sessions for a candidate that starts from a version."""


def draw_windows(start: Version, count: int) -> list[WindowKey]:
    """Draw windows as ``heldout.py`` does."""
    sessions = draw_sessions(start.accuracies(), start.name)
    windows = [
        start_anywhere([WindowKey(session, i) for i in range(TASKS)], start.name, session) for session in sessions
    ]
    return take_turns(windows, count, lambda _: 1)


def live(
    forgets: float,
    recovers: float,
    seed: int,
    *,
    sessions: int,
    earlier: int,
    against_parent: bool = False,
    draw: Draw = draw_windows,
) -> list[Version]:
    """Let the gate decide about a candidate in each session.

    Args:
        forgets: Share of what ``prod`` gets right on earlier sessions that each candidate gets wrong.
        recovers: Share of what it gets wrong that the candidate gets right.
        seed: Seed of the lineage.
        sessions: Number of sessions.
        earlier: Actions of earlier sessions that a candidate is asked.
        against_parent: Compare with the parent instead of the best of the lineage.
        draw: How they are drawn.

    Returns:
        The versions that reach ``prod``, in their order.
    """
    rng = Random(seed)
    prod = Version()
    served: list[Version] = []
    for number in range(sessions):
        new = [WindowKey(f"session {number}", i) for i in range(TASKS)]
        candidate = Version(f"{seed} {number}", _train(prod, new, rng, forgets, recovers))
        asked = draw(prod, earlier) if prod.knows else []
        best = {key: prod.knows[key] if against_parent else _best(prod, key) for key in asked}
        decision = decide(
            tuple(sorted((1, int(candidate.knows[key]), 0) for key in new)),
            tuple(sorted((1, int(candidate.knows[key]), int(best[key])) for key in asked)),
            GateSettings(),
        )
        if decision == "passed":
            results = {key: _count(candidate.knows[key]) for key in (*asked, *new)}
            candidate.marks = prod.marks.raise_to(results)
            prod = candidate
            served.append(prod)
    return served


def worst_fall(served: Sequence[Version]) -> float:
    """Return how far a served version ever was below the best ones, on average over its earlier sessions.

    Args:
        served: The versions of a lineage that reached ``prod``.

    Returns:
        The largest mean, over the sessions before a version, of the best accuracy that any version before had on the
        session minus its own. Between 0 and 1.
    """
    worst = 0.0
    best: dict[str, float] = {}
    for version in served:
        accuracies = version.accuracies()
        falls = [best[session] - accuracies[session] for session in best]
        worst = max(worst, sum(falls) / len(falls) if falls else 0.0)
        best = {session: max(best.get(session, 0.0), accuracy) for session, accuracy in accuracies.items()}
    return worst


def _train(
    prod: Version, new: Sequence[WindowKey], rng: Random, forgets: float, recovers: float
) -> dict[WindowKey, bool]:
    kept = {key: rng.random() >= forgets if right else rng.random() < recovers for key, right in prod.knows.items()}
    return kept | {key: rng.random() < LEARNED for key in new}


def _best(version: Version, key: WindowKey) -> bool:
    return version.marks.sessions[key.session][key.number].right > 0


def _count(is_right: bool) -> TaskCounts:
    return TaskCounts(actions=1, right=is_right, loss=1, weight=1)
