"""Skills whose true accuracy is known, and what the real gate decides about them.

An action of a task is right if a standard normal number is below a threshold, which gives the accuracy. That number is
made of what the action has in common for both versions (how hard it is) and of what only one version has:

    sqrt(correlation) * hardness + sqrt(1 - correlation) * noise of the version

With a correlation of 0 the two versions err independently; with 0.8 mostly on the same actions, as a version and its
parent do. Three tenths of both are common to the actions of one task, which therefore succeed and fail together.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from looper.jobs.gate.judge import judge_candidate
from looper.platform.domain.scores import CandidateScores, Comparison, Scores, TaskCounts, TaskPair
from looper.platform.settings import GateSettings

ACTIONS_PER_TASK = 2
"""Tool calls of a simulated task. The last task may have fewer."""

WITHIN_TASK = 0.3
"""Share of the variance that the actions of one task have in common."""

CONTEXTS = ("with_notes", "with_episodes", "with_wrong_episodes")
"""The contexts of the demo, besides that of the recorded examples."""

Pair = tuple[int, int, int]
"""Actions of a task, how many of them the candidate has right, and how many what it is compared with."""


def simulate_pairs(
    rng: Generator, actions: int, before: float, now: float, correlation: float, per_task: int
) -> tuple[Pair, ...]:
    """Draw the results of two versions with the true accuracies ``before`` and ``now`` on ``actions`` actions."""
    task = np.arange(actions) // per_task
    hardness, noise_now, noise_before = (_draw(rng, task) for _ in range(3))
    right = [
        sqrt(correlation) * hardness + sqrt(1 - correlation) * noise < _threshold(accuracy)
        for noise, accuracy in ((noise_now, now), (noise_before, before))
    ]
    sizes, of_now, of_before = (np.bincount(task, weights) for weights in (None, *right))
    return tuple((int(a), int(b), int(c)) for a, b, c in zip(sizes, of_now, of_before, strict=True))


def _draw(rng: Generator, task: NDArray[np.intp]) -> NDArray[np.float64]:
    of_task, of_action = rng.standard_normal(task[-1] + 1), rng.standard_normal(len(task))
    return sqrt(WITHIN_TASK) * of_task[task] + sqrt(1 - WITHIN_TASK) * of_action


def _threshold(accuracy: float) -> float:
    return NormalDist().inv_cdf(min(max(accuracy, 1e-9), 1 - 1e-9))


def to_task_pairs(pairs: Sequence[Pair]) -> tuple[TaskPair, ...]:
    """Make the gate's results by task. Losses are equal."""
    return tuple(map(_to_task_pair, pairs))


@cache
def _to_task_pair(pair: Pair) -> TaskPair:
    actions, *both = pair
    candidate, reference = (TaskCounts(actions=actions, right=right, loss=actions, weight=actions) for right in both)
    return TaskPair(candidate=candidate, reference=reference)


def compare(pairs: Sequence[Pair]) -> Comparison:
    """Sum up both sides."""
    actions = sum(pair[0] for pair in pairs)
    now, before = (
        Scores(accuracy=sum(pair[i] for pair in pairs) / actions, loss=1, actions=actions, tokens=9) for i in (1, 2)
    )
    return Comparison(candidate=now, reference=before)


def scores_of(
    new: Sequence[Pair], earlier: Sequence[Pair] = (), contexts: Mapping[str, Sequence[Pair]] | None = None
) -> CandidateScores:
    """Make the scores of a candidate with these results on new and on earlier tasks.

    ``contexts`` are the new tasks again, by context.
    """
    both = compare(new)
    return CandidateScores(
        candidate=both.candidate,
        current=both.reference,
        new_tasks=to_task_pairs(new),
        earlier=compare(earlier) if earlier else None,
        earlier_tasks=to_task_pairs(earlier) if earlier else None,
        new_tasks_by_context=contexts and {context: to_task_pairs(pairs) for context, pairs in contexts.items()},
    )


def spread_over_contexts(new: Sequence[Pair]) -> dict[str, tuple[Pair, ...]]:
    """Divide tasks among contexts as ``heldout.py`` asks them: every second one as recorded, the others by turns."""
    rendered = new[1::2]
    return {"": tuple(sorted(new[::2]))} | {
        context: tuple(sorted(rendered[number :: len(CONTEXTS)])) for number, context in enumerate(CONTEXTS)
    }


@cache
def decide(
    new: tuple[Pair, ...],
    earlier: tuple[Pair, ...],
    limits: GateSettings,
    contexts: tuple[tuple[str, tuple[Pair, ...]], ...] = (),
) -> str:
    """Return what the gate decides: ``passed``, ``canary`` or ``refused``."""
    verdict = judge_candidate(scores_of(new, earlier, dict(contexts) or None), limits)
    return "passed" if verdict.passed else "canary" if verdict.undecided else "refused"


def measure(
    actions: int,
    effect: float,
    *,
    correlation: float,
    repetitions: int,
    before: float = 0.6,
    with_earlier: bool = False,
    in_contexts: bool = False,
    per_task: int = ACTIONS_PER_TASK,
) -> Mapping[str, float]:
    """Return the share of each decision about candidates whose true accuracy differs by ``effect`` from ``before``.

    With ``with_earlier``, they are also asked as many actions of earlier sessions, on which they are as good as before.
    With ``in_contexts``, the actions are in four contexts, and the effect is the same in each.
    """
    rng = np.random.default_rng([actions, round(1000 * effect + 1000), round(100 * correlation), with_earlier])
    decisions = {"passed": 0, "canary": 0, "refused": 0}
    for _ in range(repetitions):
        new = simulate_pairs(rng, actions, before, before + effect, correlation, per_task)
        earlier = simulate_pairs(rng, actions, 0.9, 0.9, correlation, per_task) if with_earlier else ()
        # Sorted, because the order of tasks decides nothing and equal results need be judged only once.
        contexts = tuple(spread_over_contexts(new).items()) if in_contexts else ()
        decisions[decide(tuple(sorted(new)), tuple(sorted(earlier)), GateSettings(), contexts)] += 1
    return {name: count / repetitions for name, count in decisions.items()}
