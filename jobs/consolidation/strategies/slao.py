"""SLAO: one adapter, started from an orthonormal basis and merged ever more slowly. Used through ``registry.py``."""

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor
from typing_extensions import override

from looper.jobs.consolidation.adapters.lora import Factors, Lora, stack_adapters
from looper.jobs.consolidation.strategies.strategy import STRATEGY_CONFIG, Strategy, StrategyContext, StrategyState


@dataclass(config=STRATEGY_CONFIG)
class Slao(Strategy):
    """Starts with a <- Q^T and b <- b R^T, where Q R = a^T, and publishes b <- b_start + (b - b_start) / sqrt(t).

    Single LoRA with orthogonal initialization and continual merging (Qiao and Mahdavi, 2025, arXiv 2512.23017). t is
    the number of the session, from 1, so that later sessions change less. As in the paper, ``a`` is not merged: it is
    that of the latest session. Simplified: a session starts from the published version and not from the weights that
    were fine-tuned before the merge, and ``b`` is turned with ``a``, so that it starts as exactly that version.

    Memory: one number. A session costs a QR decomposition of each ``a`` at its beginning. Beside a strategy that grows,
    there is no basis of its own to turn, and the updates are averaged with the same weights.
    """

    @override
    def begin(self, session: StrategyContext, past: StrategyState) -> None:
        self._session = session
        self._number = 1 + (int(past["sessions"]) if past else 0)
        self._before: dict[str, Tensor] = {}
        if session.start is None:
            return
        for layer, factors in session.lora.items():
            if factors.a.is_leaf and factors.a.requires_grad:
                self._before[layer] = _turn(factors)

    @override
    def finish(self, trained: Lora) -> Lora:
        start = self._session.start
        if start is None:
            return trained
        share = self._number**-0.5
        if any(self._before.get(layer, _NONE).shape != of.b.shape for layer, of in trained.items()):
            return stack_adapters(_scaled(start, 1 - share), _scaled(trained, share))
        return {
            layer: Factors(of.a, self._before[layer] + share * (of.b - self._before[layer]), of.scale)
            for layer, of in trained.items()
        }

    @override
    def remember(self, published: Lora) -> StrategyState:
        return {"sessions": torch.tensor(self._number)}


_NONE = torch.empty(0)


def _turn(factors: Factors) -> Tensor:
    """Make the rows of ``a`` orthonormal without changing the update, and return a copy of the new ``b``."""
    with torch.no_grad():
        q, r = torch.linalg.qr(factors.a.T.float())
        if q.shape[1] == factors.rank:  # otherwise the rank is larger than the layer, and no such basis exists
            factors.b.copy_(factors.b.float() @ r.T)
            factors.a.copy_(q.T)
        return factors.b.detach().clone()


def _scaled(lora: Lora, weight: float) -> dict[str, Factors]:
    return {layer: Factors(of.a, of.b, weight * of.scale) for layer, of in lora.items()}
