"""ELLA: a penalty keeps a new update away from the entries that past updates use most. Used through ``registry.py``."""

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from typing_extensions import override

from looper.jobs.consolidation.adapters.lora import Factors
from looper.jobs.consolidation.strategies.strategy import STRATEGY_CONFIG, Strategy, StrategyContext, StrategyState


@dataclass(config=STRATEGY_CONFIG)
class Ella(Strategy):
    """weight * ||dW_t * dW_past||_F^2, entry by entry and over all layers.

    Das Biswas et al., 2026, arXiv 2601.02232. dW_past, the sum of all past updates, is the update of the version that
    the session goes on from, and dW_t is what this session adds to it, so that one adapter of fixed rank carries both.
    Simplified: the paper trains a fresh adapter for each task and merges it afterwards.

    Memory: nothing. A step makes ``[out, in]`` matrices, those of one layer at a time, and costs about as much as
    ``rank`` passes over the base model's weights.
    """

    weight: float = Field(default=1e3, ge=0, le=1e12, description="lambda")

    @override
    def begin(self, session: StrategyContext, past: StrategyState) -> None:
        self._session = session

    @override
    def penalty(self) -> Tensor | None:
        start = self._session.start
        if start is None:
            return None
        overlaps = [_overlap(now, start[layer]) for layer, now in self._session.lora.items()]
        return self.weight * torch.stack(overlaps).sum()


def _overlap(now: Factors, start: Factors) -> Tensor:
    """||(dW_now - dW_start) * dW_start||_F^2, as a scalar that holds on to no ``[out, in]`` matrix.

    Its gradient is taken at once, so that the layer's matrices can go, and handed on by a linear form in ``now`` whose
    value is zero.
    """
    a, b = now.a.detach().requires_grad_(), now.b.detach().requires_grad_()
    with torch.enable_grad():
        past = start.update()
        value = ((now.scale * b @ a - past) * past).square().sum()
        grad_a, grad_b = torch.autograd.grad(value, (a, b))
    return value.detach() + (grad_a * (now.a - a.detach())).sum() + (grad_b * (now.b - b.detach())).sum()
