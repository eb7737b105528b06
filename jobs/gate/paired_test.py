"""A paired test by task: is the candidate better or worse than what it is compared with, or could it be chance?

``checks.py`` calls it. The test is the exact one-sided sign-flip test of Fisher (The Design of Experiments, 1935,
section 21): if the two are equally good, then each task's difference is as likely to have the other sign. The
probability of the observed sum or a more extreme one follows by convolution, as in Pagano and Tritchler (On obtaining
permutation distributions in polynomial time, JASA 78, 1983). With one action a task it is McNemar's exact test
(Psychometrika 12, 1947). By task and not by action, because the actions of one task succeed or fail together.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from looper.platform.domain.scores import Evidence

POWER = 0.8
"""Probability with which the estimated number of tasks would suffice as evidence."""

LOSS_STEPS = 1000
"""The largest difference of losses is divided into so many steps, because the exact test needs integers."""


def compare_paired(differences: Sequence[int], error_rate: float | None = None) -> Evidence:
    """Test the differences of tasks, candidate minus reference.

    Args:
        differences: One number for each task; positive where the candidate is better.
        error_rate: Largest probability of a false result with which ``needed`` tasks would be evidence of better. None
            where evidence of worse is looked for: then ``needed`` is not estimated.

    Returns:
        The probabilities of the sum by chance, and how many tasks would suffice.
    """
    net = sum(differences)
    sizes = [abs(each) for each in differences if each]
    total = sum(sizes)
    distribution = _sum_distribution(sizes)
    return Evidence(
        tasks=len(differences),
        better=sum(each > 0 for each in differences),
        worse=sum(each < 0 for each in differences),
        net=net,
        p_better=min(1.0, float(distribution[(total + net) // 2 :].sum())),
        p_worse=min(1.0, float(distribution[(total - net) // 2 :].sum())),
        needed=None if error_rate is None else _estimate_needed(differences, error_rate),
    )


def to_steps(differences: Sequence[float]) -> list[int]:
    """Round differences of losses to integers, of which the largest is ``LOSS_STEPS``.

    Args:
        differences: One number for each task.

    Returns:
        The integers, in the same order.
    """
    largest = max((abs(each) for each in differences), default=0.0)
    return [round(each / largest * LOSS_STEPS) if largest else 0 for each in differences]


def _sum_distribution(sizes: Sequence[int]) -> NDArray[np.float64]:
    """Return the probability of each sum P of the sizes that get a plus, if each does with probability 1/2.

    The signed sum is then 2 P - total.
    """
    total = sum(sizes)
    probabilities = np.zeros(total + 1)
    probabilities[0] = 1.0
    for size in sizes:
        shifted = np.zeros_like(probabilities)
        shifted[size:] = probabilities[: total + 1 - size]
        probabilities = (probabilities + shifted) / 2
    return probabilities


def _estimate_needed(differences: Sequence[int], error_rate: float) -> int | None:
    """Return about how many tasks would be evidence of better, with probability ``POWER``.

    The formula for paired samples is Connor's (Sample size for testing differences in proportions for the paired-sample
    design, Biometrics 43, 1987), for a mean difference d and a mean square q of the tasks so far:

        n = ((z(1 - error_rate) sqrt(q) + z(POWER) sqrt(q - d^2)) / d)^2

    It is at least the number of tasks with which all changed ones together could be significant at all.
    """
    count = len(differences)
    mean = sum(differences) / count if count else 0.0
    if mean <= 0:
        return None
    square = sum(each * each for each in differences) / count
    threshold = NormalDist().inv_cdf(1 - error_rate) if error_rate < 0.5 else 0.0
    deviation = math.sqrt(max(0.0, square - mean * mean))
    by_power = ((threshold * math.sqrt(square) + NormalDist().inv_cdf(POWER) * deviation) / mean) ** 2
    changed = sum(each != 0 for each in differences) / count
    return max(math.ceil(by_power), math.ceil(math.ceil(-math.log2(error_rate)) / changed))
