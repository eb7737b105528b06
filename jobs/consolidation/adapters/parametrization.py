"""How an adapter is made of what is trained. Whichever way, it shares a base with others and ends as plain LoRA."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from looper.jobs.consolidation.adapters.lora import Lora
from looper.jobs.consolidation.adapters.peft_layers import Acting
from looper.jobs.consolidation.strategies.strategy import State


class Parametrization(ABC):
    """One tenant's, over one session. What is not abstract does nothing unless a method says otherwise."""

    groups: list[tuple[list[nn.Parameter], float]]
    """What is trained, each group with its learning rate as a multiple of the recipe's."""

    @abstractmethod
    def acting(self) -> Acting:
        """What acts in the next step, differentiable in the parameters."""

    @abstractmethod
    def plain(self) -> tuple[Lora, float]:
        """A copy as plain LoRA of the same rank, and its error ||dW - dW'|| / ||dW|| over all layers."""

    def penalty(self) -> Tensor | None:
        """A scalar to add to the mean loss of the next step."""
        return None

    def stepped(self, step: int) -> None:  # noqa: B027
        """After optimiser step number ``step``, from 1, while the parameters still hold their gradients."""

    def state(self) -> State:
        """What has changed over the steps, apart from the parameters."""
        return {}

    def resume(self, state: State) -> None:  # noqa: B027
        """Take over what ``state`` returned."""


class PlainLora(Parametrization):
    """LoRA's own factors: lora, rslora, qlora and, with a higher rate for b, lora+."""

    def __init__(self, lora: Lora, b_rate: float) -> None:
        self._lora = lora
        a, b = zip(*((each.a, each.b) for each in lora.values()), strict=True)
        self.groups = [(_parameters(a), 1.0), (_parameters(b), b_rate)]

    def acting(self) -> Lora:
        return self._lora

    @torch.no_grad()
    def plain(self) -> tuple[Lora, float]:
        return {layer: each.copy() for layer, each in self._lora.items()}, 0.0


def _parameters(tensors: tuple[Tensor, ...]) -> list[nn.Parameter]:
    parameters = [tensor for tensor in tensors if isinstance(tensor, nn.Parameter)]
    assert len(parameters) == len(tensors)
    return parameters
