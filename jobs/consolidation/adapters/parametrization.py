"""How the trained parameters form an adapter. Every method shares the base model and ends as plain LoRA.

``training/session.py`` makes one for each member. ``dora.py`` and ``adalora.py`` hold the other methods.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from typing_extensions import override

from looper.jobs.consolidation.adapters.lora import Lora
from looper.jobs.consolidation.adapters.peft_layers import ActiveAdapter
from looper.jobs.consolidation.strategies.strategy import StrategyState


class Parametrization(ABC):
    """The parametrization of one member over one session. Hooks that are not abstract do nothing by default."""

    groups: list[tuple[list[nn.Parameter], float]]
    """Groups of trained parameters, each with its learning rate as a multiple of the recipe's."""

    @abstractmethod
    def active_adapter(self) -> ActiveAdapter:
        """Return what acts on the base in the next step, differentiable in the parameters."""

    @abstractmethod
    def to_plain_lora(self) -> tuple[Lora, float]:
        """Return a copy as plain LoRA of the same rank, and its error ||dW - dW'|| / ||dW|| over all layers."""

    def penalty(self) -> Tensor | None:
        """Return a scalar to add to the mean loss of the next step."""
        return None

    def after_step(self, step: int) -> None:  # noqa: B027
        """React to optimizer step number ``step``, from 1, while the parameters still hold their gradients."""

    def state(self) -> StrategyState:
        """Return what has changed over the steps, apart from the parameters."""
        return {}

    def resume(self, state: StrategyState) -> None:  # noqa: B027
        """Restore what ``state`` returned before an interruption.

        Args:
            state: The named tensors that ``state`` returned.
        """


class PlainLora(Parametrization):
    """The LoRA factors themselves: methods lora, rslora, qlora and, with a higher learning rate for b, lora+.

    Args:
        lora: The factors, as parameters.
        b_rate: Learning rate of the b factors as a multiple of the recipe's.
    """

    def __init__(self, lora: Lora, b_rate: float) -> None:
        self._lora = lora
        a, b = zip(*((each.a, each.b) for each in lora.values()), strict=True)
        self.groups = [(_parameters(a), 1.0), (_parameters(b), b_rate)]

    @override
    def active_adapter(self) -> Lora:
        return self._lora

    @override
    @torch.no_grad()
    def to_plain_lora(self) -> tuple[Lora, float]:
        return {layer: each.copy() for layer, each in self._lora.items()}, 0.0


def _parameters(tensors: tuple[Tensor, ...]) -> list[nn.Parameter]:
    parameters = [tensor for tensor in tensors if isinstance(tensor, nn.Parameter)]
    assert len(parameters) == len(tensors)
    return parameters
