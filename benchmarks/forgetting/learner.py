"""Who learns in the benchmark: what it must be able to do, whatever trains it."""

from collections.abc import Sequence
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from looper.benchmarks.forgetting.plan import ForgettingRun
from looper.platform.domain.example import Example


class Score(BaseModel):
    """An instance on some held-out episodes, teacher-forced: every turn of the agent is judged given the true history.

    An episode is solved if each token of each of the agent's turns is the most likely one, the last turn without a call
    included: greedy decoding in the closed loop would then live the same episode, and an expert's succeeds.
    """

    model_config = ConfigDict(frozen=True)

    episodes: int
    solved: int
    calls: int
    """Tool calls that the episodes hold."""
    right: int
    """Of them, those of which each token is the most likely one."""
    loss: float
    """Mean cross-entropy in nats over the agent's tokens."""


class Learner(Protocol):
    """An instance from its first consolidation on. Deterministic in the run and in what it is given."""

    def begin(self, run: ForgettingRun) -> None:
        """Forget everything: a fresh instance on ``run.base`` that learns by ``run.recipe``."""

    def learn(self, examples: Sequence[Example]) -> int:
        """Consolidate one session's new examples; return the optimiser steps it took.

        Raises InvalidInput if the recipe cannot learn them, such as a learning rate that ends in no number.
        """

    def judge(self, examples: Sequence[Example]) -> Score:
        """The instance as it is now, the bare base before its first session."""

    def save(self) -> bytes:
        """Everything that later sessions go on from: the adapter, and what the strategy remembers."""

    def load(self, saved: bytes) -> None:
        """Go on from what ``save`` returned, after ``begin`` of the same run."""
