"""The interface of a strategy against forgetting, and what a strategy is given.

``training/session.py`` calls the hooks of a strategy over one session of an instance. Strategies read the context that
they get in ``begin``; they never call the trainer, the catalog or the object store.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from pydantic import ConfigDict
from torch import Tensor, nn

from looper.jobs.consolidation.adapters.lora import Factors, Lora
from looper.jobs.consolidation.data.window import Window

STRATEGY_CONFIG = ConfigDict(allow_inf_nan=False, extra="forbid")
"""Configuration of the pydantic dataclasses that strategies are. Their fields are the options that a user may set."""

StrategyState = dict[str, Tensor]
"""Named tensors that a strategy keeps: from session to session, or over the steps of one session."""


@dataclass(frozen=True)
class Importance:
    """How much the loss depends on the update dW of one layer: the mean squared gradient of each entry of dW.

    Only the row means and the column means of that matrix are kept: F_ij ~ rows_i * columns_j / mean(rows), as in
    Adafactor (Shazeer and Stern, 2018). This is exact where one token decides, because its gradient is then an
    outer product.
    """

    rows: Tensor
    """Row means, ``[out]``."""
    columns: Tensor
    """Column means, ``[in]``."""


@dataclass(frozen=True)
class StrategyContext:
    """One session of an instance (one consolidation), as its strategy sees it."""

    lora: Lora
    """The adapter in training. Its tensors are parameters: to change one, copy into it under ``torch.no_grad``."""
    start: Lora | None
    """The version that this session continues, as plain tensors. None in the first session of an instance.

    ``lora`` starts with these values. If the strategy ``grows``, ``lora`` starts as a zero update beside them.
    """
    windows: Sequence[Window]
    """The new windows of this session."""
    steps: int
    """Optimizer steps that the new windows alone would take."""
    seed: int
    """The seed of the recipe."""
    importance: Callable[[Lora, Sequence[Window]], dict[str, Importance]]
    """Return the importance of each layer's update under the given adapter.

    It takes one backward pass for each window, so pass few windows.
    """
    factor_importance: Callable[[Lora, Sequence[Window]], dict[str, Factors]]
    """Return the mean squared gradients of ``a`` and ``b`` by layer. It costs as much as ``importance``."""
    losses: Callable[[Lora, Sequence[Window]], list[float]]
    """Return the mean loss of each window under the given adapter, in nats per target token."""
    logits: Callable[[Lora, Sequence[Window]], Tensor]
    """Return the logits under the given adapter, float32 ``[targets of all windows, vocabulary]``, with gradients."""
    epochs: int = 1
    """Number of epochs of the session."""
    once: int = 0
    """How many of ``windows``, the last ones, are trained on in one epoch only."""
    old: Sequence[Window] = ()
    """Old windows that earlier strategies of a combination replay."""

    @property
    def repeated_windows(self) -> Sequence[Window]:
        """The new windows that each epoch takes."""
        return self.windows[: len(self.windows) - self.once]

    @property
    def windows_once(self) -> Sequence[Window]:
        """The new windows that one epoch takes."""
        return self.windows[len(self.windows) - self.once :]

    @property
    def total_windows(self) -> int:
        """Number of new windows that all epochs take together."""
        return self.epochs * len(self.repeated_windows) + self.once

    @property
    def total_tokens(self) -> int:
        """Number of tokens in these."""
        return self.epochs * sum(map(len, self.repeated_windows)) + sum(map(len, self.windows_once))

    def rng(self, purpose: str) -> Random:
        """Return a random generator that is the same after a restart.

        Args:
            purpose: What the numbers are for. Different purposes get independent numbers.

        Returns:
            A generator seeded by the session's seed and ``purpose``.
        """
        return Random(f"{self.seed}:{purpose}")


class Strategy:
    """One strategy against forgetting. By default each hook does nothing. ``Combined`` composes several strategies.

    The trainer calls ``begin`` before the first step, with the state that ``remember`` returned at the end of the
    previous session, or with an empty state. ``state`` returns what changes over the steps of a session. After an
    interruption the trainer calls ``begin`` and then ``resume`` with that state, and training continues exactly.
    """

    grows: bool = False
    """Whether the previous version stays frozen and a new block of the recipe's rank is trained beside it."""

    def begin(self, session: StrategyContext, past: StrategyState) -> None:
        """Prepare for a session.

        Args:
            session: The session, valid until ``remember`` returns.
            past: What ``remember`` returned at the end of the previous session; empty in the first one.
        """

    def windows(self) -> list[Window]:
        """Return old windows to train on beside the new ones. Called once, after ``begin``.

        They are spread evenly over the session's epochs, so that each is trained on once.
        """
        return []

    def frozen_lora(self) -> Lora | None:
        """Return the adapter that acts beside ``session.lora`` in the next step, if the strategy ``grows``.

        Its tensors may require gradients.
        """
        return None

    def parameters(self) -> list[nn.Parameter]:
        """Return further parameters to train beside ``session.lora``."""
        return []

    def penalty(self) -> Tensor | None:
        """Return a scalar to add to the mean loss of the next step, differentiable in the trained parameters."""
        return None

    def after_step(self, loss: float) -> None:
        """React to an optimizer step.

        Args:
            loss: Mean loss of that step, in nats per target token.
        """

    def finish(self, trained: Lora) -> Lora:
        """Return the adapter to publish. It may have any rank, because the trainer truncates it.

        Args:
            trained: The adapter that was trained. If the strategy ``grows``, this is the new block alone.

        Returns:
            The complete adapter.
        """
        return trained

    def remember(self, published: Lora) -> StrategyState:
        """Return what the next session needs. It is kept only if the candidate is published.

        Args:
            published: The adapter as it is published, after truncation.

        Returns:
            The state that the next session's ``begin`` gets.
        """
        return {}

    def state(self) -> StrategyState:
        """Return what has changed since ``begin``, apart from ``session.lora`` and ``parameters``."""
        return {}

    def resume(self, state: StrategyState) -> None:
        """Restore what ``state`` returned before an interruption.

        Args:
            state: The named tensors that ``state`` returned.
        """
