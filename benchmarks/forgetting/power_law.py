"""Fit forgetting as a shifted power law of optimizer steps and LoRA rank.

``bench.py`` calls it in phase 3, and ``charts.py`` draws the result. Kalajdzievski (2024, arXiv 2401.05605) reports
that forgetting grows as a shifted power law in the number of fine-tuned parameters and in the number of update steps.
The form here is chosen so that nothing is forgotten before the first step:

    f(N, r) = c ((1 + x / a)^b - 1),  x = N r^d

N is the number of steps per session, and r is the rank, to which the number of LoRA parameters is proportional. It is
the same family as c' ((a + x)^b - a^b) with c' = c / a^b. But c has the unit of forgetting, and fits are
well-conditioned.
"""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from looper.platform.domain.errors import InvalidInput

SEARCH_ROUNDS = 12
"""Rounds of the grid search. Each round halves the ranges around the best point so far."""
GRID_POINTS = 11
"""Values of each of a, b and d in one round."""


class Point(NamedTuple):
    """One measurement of forgetting."""

    steps: int
    """Optimizer steps per session."""
    rank: int
    """LoRA rank."""
    forgetting: float
    """Rise of the held-out loss, in nats per token."""


class PowerLaw(NamedTuple):
    """Fitted law f = c ((1 + N r^d / a)^b - 1) with its constants ``a``, ``b``, ``c`` and ``d``."""

    a: float
    b: float
    c: float
    d: float
    r2: float
    """Share of the variance of the points that the law explains (R²)."""

    def predict(self, steps: float, rank: float) -> float:
        """Return the forgetting that the law predicts.

        Args:
            steps: Optimizer steps per session.
            rank: LoRA rank.

        Returns:
            Forgetting in the unit of the fitted points.
        """
        return float(self.c * np.expm1(self.b * np.log1p(steps * rank**self.d / self.a)))


def fit_power_law(points: Sequence[Point]) -> PowerLaw:
    """Fit the law by least squares.

    A grid search over a, b and d looks at ranges that shrink around the best point. The best c >= 0 for given a, b and
    d has a closed form. The ranges are: a from 1/100 to 100 times the median steps, b from 0.05 to 2, d from -1 to 2.
    If all points have one rank, d is 0.

    Args:
        points: At least five measurements, one more than the law has constants.

    Returns:
        The law with the smallest squared error.

    Raises:
        InvalidInput: There are fewer than five points.
    """
    if len(points) < 5:
        raise InvalidInput(f"{len(points)} points are too few to fit forgetting. Measure at least 5 of steps and rank.")
    steps = np.array([point.steps for point in points], dtype=float)
    rank = np.array([point.rank for point in points], dtype=float)
    observed = np.array([point.forgetting for point in points])
    log_median = np.log(np.median(steps))
    low = np.array([log_median - np.log(100), 0.05, -1.0])
    high = np.array([log_median + np.log(100), 2.0, 2.0])
    if np.all(rank == rank[0]):
        low[2] = high[2] = 0.0
    best_loss, center, half_range = np.inf, (low + high) / 2, (high - low) / 2
    c = 0.0
    for _ in range(SEARCH_ROUNDS):
        axes = [
            np.linspace(max(lo, m - h), min(hi, m + h), GRID_POINTS if h else 1)
            for lo, hi, m, h in zip(low, high, center, half_range, strict=True)
        ]
        for candidate in product(*axes):
            scale, loss = _best_scale(_shape(steps, rank, *candidate), observed)
            if loss < best_loss:
                best_loss, center, c = loss, np.array(candidate), scale
        half_range = half_range / 2
    variance = float(((observed - observed.mean()) ** 2).sum())
    a, b, d = np.exp(center[0]), center[1], center[2]
    return PowerLaw(float(a), float(b), c, float(d), 1 - best_loss / variance if variance else 1.0)


def _shape(
    steps: NDArray[np.float64], rank: NDArray[np.float64], log_a: float, b: float, d: float
) -> NDArray[np.float64]:
    shape: NDArray[np.float64] = np.expm1(b * np.log1p(steps * rank**d / np.exp(log_a)))
    return shape


def _best_scale(shape: NDArray[np.float64], observed: NDArray[np.float64]) -> tuple[float, float]:
    """Return the c >= 0 that minimizes the squared error of c * shape, and this squared error."""
    c = max(float(shape @ observed / (shape @ shape)), 0.0)
    return c, float(((c * shape - observed) ** 2).sum())
