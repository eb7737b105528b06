"""Paired bootstrap intervals over tasks: how far an arm's mean, and its lead over another arm, may be off.

Each resample draws tasks with replacement, the same ones for both arms (Efron and Tibshirani 1993, percentile method).
The tasks of all worlds and seeds are drawn alike, so the interval says how the arms differ on other tasks of these
worlds, and not on other worlds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 10_000
"""Number of resamples."""
CONFIDENCE = 0.95
"""Share of the resamples within an interval."""
_BATCH = 1_000


class BootstrapInterval(NamedTuple):
    """A mean and its interval."""

    mean: float
    """The mean."""
    low: float
    """Lower end."""
    high: float
    """Upper end."""


def bootstrap_mean(values: Sequence[float], seed: int = 0) -> BootstrapInterval:
    """Return the mean of a value of each task, with its interval.

    Pass the differences of two arms on the same tasks for a paired comparison.

    Args:
        values: One value for each task; at least one.
        seed: Seed of the resamples.

    Returns:
        The mean and its interval.
    """
    known = np.asarray(values, dtype=float)
    rng = np.random.default_rng(seed)
    # In batches, so that thousands of tasks take no gigabytes.
    batches = [
        known[rng.integers(len(known), size=(_BATCH, len(known)))].mean(axis=1) for _ in range(RESAMPLES // _BATCH)
    ]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(batches), [tail, 1 - tail])
    return BootstrapInterval(float(known.mean()), float(low), float(high))
