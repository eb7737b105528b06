"""Intervals of shares of right actions and of their differences, by a paired bootstrap over tasks.

``report.py`` calls it. The actions of an episode are not independent, so whole tasks are drawn, with all their actions
in all arms (paired): Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 8. Tasks of all tenants are
drawn together.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

RESAMPLES = 10_000
"""Number of times that tasks are drawn."""

CONFIDENCE = 0.95
"""Share of the drawn figures between the ends of an interval."""


class ShareInterval(BaseModel):
    """A figure with its interval."""

    model_config = ConfigDict(frozen=True)

    mean: float
    """The figure of the actions as they are."""
    low: float
    """Lower end."""
    high: float
    """Upper end."""

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"

    @property
    def is_above_zero(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.low > 0


class TaskBootstrap:
    """Draws the tasks of a fixed list of actions."""

    def __init__(self, tasks: Sequence[str], seed: int = 0) -> None:
        """Draw.

        Args:
            tasks: Task of each action, at least one.
            seed: Seed of the draws.
        """
        names, self._task_of_action = np.unique(np.asarray(tasks), return_inverse=True)
        self.tasks = len(names)
        rng = np.random.default_rng(seed)
        share = np.full(self.tasks, 1 / self.tasks)
        self._drawn = rng.multinomial(self.tasks, share, size=RESAMPLES).astype(np.float64)
        self._actions = np.bincount(self._task_of_action, minlength=self.tasks).astype(np.float64)

    def interval(self, values: Sequence[float] | NDArray[np.float64]) -> ShareInterval:
        """Return the mean of a value over the actions, with its interval.

        Args:
            values: Value of each action, in the order of ``tasks``. For a paired comparison, the difference between two
                arms.

        Returns:
            The mean, and the quantiles of the means of the drawn tasks.
        """
        sums = np.bincount(self._task_of_action, weights=np.asarray(values, np.float64), minlength=self.tasks)
        drawn = (self._drawn @ sums) / (self._drawn @ self._actions)
        low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return ShareInterval(mean=float(sums.sum() / self._actions.sum()), low=float(low), high=float(high))
