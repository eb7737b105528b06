"""What a strategy against forgetting may do, and what it is given."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from pydantic import ConfigDict
from torch import Tensor, nn

from looper.jobs.consolidation.adapters.lora import Factors, Lora
from looper.jobs.consolidation.data.encode import Window

OPTIONS = ConfigDict(allow_inf_nan=False, extra="forbid")
"""Of the pydantic dataclasses that strategies are: their fields are what a user may set."""

State = dict[str, Tensor]
"""What a strategy keeps, as named tensors: from session to session, or over the steps of one."""


@dataclass(frozen=True)
class Importance:
    """How much the loss depends on one layer's update, as the mean square of the gradient of each entry of dW.

    Kept as the row and column means of that matrix, F_ij ~ rows_i * columns_j / mean(rows), which is exact where one
    token decides (its gradient is an outer product) and as small as the layer's sides (Shazeer and Stern, 2018).
    """

    rows: Tensor
    """``[out]``"""
    columns: Tensor
    """``[in]``"""


@dataclass(frozen=True)
class StrategyContext:
    """One consolidation of an instance, as its strategy sees it."""

    lora: Lora
    """What is trained. Its values are parameters: to change one, copy into it without a gradient."""
    start: Lora | None
    """The version it goes on from, as plain tensors; None in an instance's first session.

    ``lora`` begins with these values, or with a zero update beside them if the strategy ``grows``.
    """
    windows: Sequence[Window]
    """What is new."""
    steps: int
    """Optimiser steps that the new windows alone would take."""
    seed: int
    importance: Callable[[Lora, Sequence[Window]], dict[str, Importance]]
    """Of the update that the given adapter makes, by layer; a backward pass for each of the windows, so give it few."""
    factor_importance: Callable[[Lora, Sequence[Window]], dict[str, Factors]]
    """The mean squares of the gradients of ``a`` and ``b``, in their places; at the price of ``importance``."""
    losses: Callable[[Lora, Sequence[Window]], list[float]]
    """The mean loss of each window under the given adapter, in nats per target token."""
    logits: Callable[[Lora, Sequence[Window]], Tensor]
    """``[targets of all windows, vocabulary]`` in float32 under the given adapter, differentiable in it."""
    old: Sequence[Window] = ()
    """Old windows that the strategies before this one in a combination train on."""

    def rng(self, purpose: str) -> Random:
        """The same for the same session and purpose, after a restart too."""
        return Random(f"{self.seed}:{purpose}")


class Strategy:
    """One way not to forget. Each hook does nothing unless a strategy says otherwise; several compose in their order.

    ``begin`` is called before the first step, with what ``remember`` returned at the end of the instance's session
    before, or with nothing. What changes over the steps of a session is in ``state`` and comes back through ``resume``,
    called after ``begin``, so that a training that was interrupted goes on exactly.
    """

    grows: bool = False
    """Whether the version it goes on from stays as it is and a new block of the recipe's rank is trained beside it."""

    def begin(self, session: StrategyContext, past: State) -> None:
        """Get ready."""

    def windows(self) -> list[Window]:
        """Old windows to train on beside the new ones. Called once, after ``begin``."""
        return []

    def constant(self) -> Lora | None:
        """What acts beside ``session.lora`` in the next step, where a strategy ``grows``; may bear gradients."""
        return None

    def parameters(self) -> list[nn.Parameter]:
        """What is trained beside ``session.lora``."""
        return []

    def penalty(self) -> Tensor | None:
        """A scalar to add to the mean loss of the next step, differentiable in what is trained."""
        return None

    def stepped(self, loss: float) -> None:
        """After an optimiser step whose mean loss was ``loss``."""

    def finish(self, trained: Lora) -> Lora:
        """The adapter to publish, from the one that was trained. Of whatever rank: the trainer truncates.

        Where a strategy ``grows``, ``trained`` is the new block, and the whole is returned.
        """
        return trained

    def remember(self, published: Lora) -> State:
        """What the next session is to know. Kept only if the candidate is published."""
        return {}

    def state(self) -> State:
        """What has changed since ``begin``, apart from ``session.lora`` and ``parameters``."""
        return {}

    def resume(self, state: State) -> None:
        """Take over what ``state`` returned."""
