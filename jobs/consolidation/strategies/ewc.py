"""Elastic weight consolidation: a penalty holds important entries of past updates in place.

Used through ``registry.py``. The importance comes from ``fisher.py``.
"""

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from typing_extensions import override

from looper.jobs.consolidation.adapters.lora import Factors, Lora
from looper.jobs.consolidation.strategies.importance import accumulate_importance, sample_new_windows, weighted_distance
from looper.jobs.consolidation.strategies.strategy import STRATEGY_CONFIG, Strategy, StrategyContext, StrategyState
from looper.jobs.consolidation.strategies.tensors import (
    add_prefix,
    pack_importance,
    pack_lora,
    select_prefix,
    unpack_importance,
    unpack_lora,
)


@dataclass(config=STRATEGY_CONFIG)
class Ewc(Strategy):
    """EWC on the update: (weight / 2) sum_t sum_ij F_t,ij (dW - dW*_t)_ij^2, a term for each past session t.

    Kirkpatrick et al., 2017, arXiv 1612.00796; with the Fisher information of dW = BA rather than of its factors, as
    EWC-LoRA, 2026, arXiv 2602.17559. Simplified: F is the empirical Fisher (the labels are the data's) of ``samples``
    windows, and each layer's is kept as its row and column means.

    Memory: an adapter, and two vectors a layer, for every past session. A step costs small products for each of them.

    In the gym's five sessions it protected nothing alone (docs/strategies.md).
    """

    weight: float = Field(default=1e4, ge=0, le=1e12, description="lambda")
    samples: int = Field(default=32, ge=1, le=1024, description="windows that the importance is estimated on")

    @override
    def begin(self, session: StrategyContext, past: StrategyState) -> None:
        self._session, self._past = session, past
        self._sessions = len({key.partition("/")[0] for key in past})
        memories = [select_prefix(str(t), past) for t in range(self._sessions)]
        self._anchors = [
            (unpack_lora(memory, session.lora), unpack_importance(memory, session.lora)) for memory in memories
        ]

    @override
    def penalty(self) -> Tensor | None:
        if not self._anchors:
            return None
        terms = [weighted_distance(self._session.lora, anchor, importance) for anchor, importance in self._anchors]
        return self.weight / 2 * torch.stack(terms).sum()

    @override
    def remember(self, published: Lora) -> StrategyState:
        importance = self._session.importance(published, sample_new_windows(self._session, self.samples))
        memory = pack_lora(published) | pack_importance(importance)
        return {**self._past, **add_prefix(str(self._sessions), memory)}


@dataclass(config=STRATEGY_CONFIG)
class OnlineEwc(Strategy):
    """Online EWC on the update: (weight / 2) sum_ij F_ij (dW - dW*)_ij^2 with F <- gamma F + F_t and one anchor dW*.

    Schwarz et al., 2018 (Progress & Compress), arXiv 1805.06370; F of dW and simplified as in ``Ewc``. The anchor is
    the version that the session goes on from.

    Memory: two vectors a layer, whatever the number of sessions.

    In the gym's five sessions it protected nothing alone (docs/strategies.md).
    """

    weight: float = Field(default=1e4, ge=0, le=1e12, description="lambda")
    gamma: float = Field(default=0.95, ge=0, le=1, description="share of the importance that lasts to the next session")
    samples: int = Field(default=32, ge=1, le=1024, description="windows that the importance is estimated on")

    @override
    def begin(self, session: StrategyContext, past: StrategyState) -> None:
        self._session = session
        self._importance = unpack_importance(past, session.lora) if past else None

    @override
    def penalty(self) -> Tensor | None:
        if self._importance is None or self._session.start is None:
            return None
        return self.weight / 2 * weighted_distance(self._session.lora, self._session.start, self._importance)

    @override
    def remember(self, published: Lora) -> StrategyState:
        new = self._session.importance(published, sample_new_windows(self._session, self.samples))
        return pack_importance(accumulate_importance(self._importance, new, self.gamma))


@dataclass(config=STRATEGY_CONFIG)
class OnlineEwcFactors(Strategy):
    """Online EWC on the factors: (weight / 2) sum over a and b of F (theta - theta*)^2, to compare with F of dW.

    Schwarz et al., 2018, arXiv 1805.06370, with the diagonal empirical Fisher of a and b apart, as EWC is usually put
    on LoRA. What it holds depends on how dW is split into factors: many pairs make the same update. The anchor is what
    the session begins with; importance of another rank is dropped, so that beside a growing strategy it holds nothing.

    Memory: as large as the adapter.

    In the gym's five sessions it protected nothing alone (docs/strategies.md).
    """

    weight: float = Field(default=1e4, ge=0, le=1e12, description="lambda")
    gamma: float = Field(default=0.95, ge=0, le=1, description="share of the importance that lasts to the next session")
    samples: int = Field(default=32, ge=1, le=1024, description="windows that the importance is estimated on")

    @override
    def begin(self, session: StrategyContext, past: StrategyState) -> None:
        self._session = session
        self._anchor = {layer: factors.copy() for layer, factors in session.lora.items()}
        importance = unpack_lora(past, session.lora) if past and session.start is not None else None
        self._importance = importance if importance is not None and _same_rank(importance, session.lora) else None

    @override
    def penalty(self) -> Tensor | None:
        if self._importance is None:
            return None
        terms = [
            (of.a * (now.a - anchor.a) ** 2).sum() + (of.b * (now.b - anchor.b) ** 2).sum()
            for of, now, anchor in (
                (of, self._session.lora[layer], self._anchor[layer]) for layer, of in self._importance.items()
            )
        ]
        return self.weight / 2 * torch.stack(terms).sum()

    @override
    def remember(self, published: Lora) -> StrategyState:
        # Split into factors as the next session's will be, whose scale may not be that of what was published.
        scale = next(iter(self._session.lora.values())).scale
        split = {layer: Factors(of.a, of.b * (of.scale / scale), scale) for layer, of in published.items()}
        new = self._session.factor_importance(split, sample_new_windows(self._session, self.samples))
        before = self._importance
        if before is None or not _same_rank(before, new):
            return pack_lora(new)
        return pack_lora(
            {
                layer: Factors(self.gamma * before[layer].a + of.a, self.gamma * before[layer].b + of.b)
                for layer, of in new.items()
            }
        )


def _same_rank(one: Lora, other: Lora) -> bool:
    return all(factors.rank == other[layer].rank for layer, factors in one.items())
