"""The interface between the forgetting benchmark and whatever trains the instance.

``run.py`` calls it. ``looper_learner.py`` implements it with Looper's training; the tests have one without a model.
"""

from collections.abc import Sequence
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from looper.benchmarks.forgetting.plan import ForgettingRun
from looper.platform.domain.example import Example


class HeldOutScore(BaseModel):
    """Result of an instance on held-out episodes with teacher forcing: each turn is evaluated given the true history.

    An episode is solved if each token of each turn of the agent is the most likely one, including the last turn, which
    has no call. Greedy decoding in the real environment would then produce the same episode, and an expert's episode
    succeeds.
    """

    model_config = ConfigDict(frozen=True)

    episodes: int
    """Number of episodes."""
    solved: int
    """Number of solved episodes."""
    calls: int
    """Number of tool calls in the episodes."""
    right: int
    """Number of tool calls of which each token is the most likely one."""
    loss: float
    """Mean cross-entropy over the agent's tokens, in nats."""


class Learner(Protocol):
    """One instance that learns session after session. Its results depend only on the run and on the examples."""

    def reset(self, run: ForgettingRun) -> None:
        """Start from the base model again, without an adapter and without strategy state.

        Args:
            run: The run whose recipe the next calls use.
        """

    @property
    def parameters(self) -> int:
        """Number of parameters of the base model, for which recipes choose their learning rate."""

    def train(self, examples: Sequence[Example]) -> int:
        """Consolidate the new examples of one session.

        Args:
            examples: The session's examples.

        Returns:
            Number of optimizer steps.

        Raises:
            InvalidInput: The recipe cannot learn the examples, for instance because the loss is not finite.
        """

    @property
    def trained_tokens(self) -> int:
        """Tokens that the last training computed, old ones included, with shared prefixes counted once a step."""

    def evaluate(self, examples: Sequence[Example]) -> HeldOutScore:
        """Evaluate the current adapter, or the base model before the first session.

        Args:
            examples: Held-out episodes.

        Returns:
            The score over all of them.
        """

    def save_state(self) -> bytes:
        """Return what later sessions need: the adapter and the strategy state."""

    def load_state(self, saved: bytes) -> None:
        """Continue from a saved state. ``reset`` was called with the same run before.

        Args:
            saved: The result of ``save_state``.
        """
