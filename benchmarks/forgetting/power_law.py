"""Forgetting against optimiser steps and LoRA rank, as a shifted power law.

Kalajdzievski (2024, arXiv 2401.05605) reports that forgetting grows as a shifted power law in the number of parameters
fine-tuned and of update steps. The form here is chosen so that nothing is forgotten before the first step:

    f(N, r) = c ((1 + x / a)^b - 1),  x = N r^d

with N steps per session and rank r, to which LoRA's parameters are proportional. It is the same family as
c' ((a + x)^b - a^b), c' = c / a^b, but c keeps the unit of forgetting and fits are well-conditioned.
"""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from looper.platform.domain.errors import InvalidInput

ROUNDS, PLACES = 12, 11
"""The search looks at PLACES values of a, b and d each, ROUNDS times, every time in half the range around the best."""


class Point(NamedTuple):
    """One measurement: ``steps`` per session at ``rank`` gave ``forgetting``."""

    steps: int
    rank: int
    forgetting: float


class PowerLaw(NamedTuple):
    """f = c ((1 + N r^d / a)^b - 1). ``r2`` is the share of the points' variance that it explains."""

    a: float
    b: float
    c: float
    d: float
    r2: float

    def at(self, steps: float, rank: float) -> float:
        return float(self.c * np.expm1(self.b * np.log1p(steps * rank**self.d / self.a)))


def fit_power_law(points: Sequence[Point]) -> PowerLaw:
    """The least-squares fit, by a search over a, b, d in ranges that shrink; the best c >= 0 is then a formula.

    The ranges: a from 1/100 to 100 times the median steps, b from 0.05 to 2, d from -1 to 2. With every point at one
    rank, d is 0. Raises InvalidInput for fewer than five points, one more than the law has constants.
    """
    if len(points) < 5:
        raise InvalidInput(f"{len(points)} points are too few to fit forgetting: measure at least 5 of steps and rank")
    steps = np.array([point.steps for point in points], dtype=float)
    rank = np.array([point.rank for point in points], dtype=float)
    seen = np.array([point.forgetting for point in points])
    middle = np.log(np.median(steps))
    low = np.array([middle - np.log(100), 0.05, -1.0])
    high = np.array([middle + np.log(100), 2.0, 2.0])
    if np.all(rank == rank[0]):
        low[2] = high[2] = 0.0
    best, centre, half = np.inf, (low + high) / 2, (high - low) / 2
    c = 0.0
    for _ in range(ROUNDS):
        axes = [
            np.linspace(max(lo, m - h), min(hi, m + h), PLACES if h else 1)
            for lo, hi, m, h in zip(low, high, centre, half, strict=True)
        ]
        for place in product(*axes):
            scale, loss = _best_scale(_shape(steps, rank, *place), seen)
            if loss < best:
                best, centre, c = loss, np.array(place), scale
        half = half / 2
    spread = float(((seen - seen.mean()) ** 2).sum())
    a, b, d = np.exp(centre[0]), centre[1], centre[2]
    return PowerLaw(float(a), float(b), c, float(d), 1 - best / spread if spread else 1.0)


def _shape(
    steps: NDArray[np.float64], rank: NDArray[np.float64], log_a: float, b: float, d: float
) -> NDArray[np.float64]:
    shape: NDArray[np.float64] = np.expm1(b * np.log1p(steps * rank**d / np.exp(log_a)))
    return shape


def _best_scale(shape: NDArray[np.float64], seen: NDArray[np.float64]) -> tuple[float, float]:
    """The c >= 0 for which c * shape is nearest to what was seen, and the sum of squares that is left."""
    c = max(float(shape @ seen / (shape @ shape)), 0.0)
    return c, float(((c * shape - seen) ** 2).sum())
