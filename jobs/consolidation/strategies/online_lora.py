"""Online-LoRA: at each plateau of the loss, a penalty starts to hold what mattered for it.

Used through ``registry.py``.
"""

from statistics import fmean, pvariance

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from typing_extensions import override

from looper.jobs.consolidation.adapters.lora import Factors, Lora, stack_adapters, truncate_rank
from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.strategies.importance import accumulate_importance, weighted_distance
from looper.jobs.consolidation.strategies.progressive import Progressive
from looper.jobs.consolidation.strategies.strategy import STRATEGY_CONFIG, Importance, StrategyContext, StrategyState
from looper.jobs.consolidation.strategies.tensors import (
    add_prefix,
    pack_importance,
    pack_lora,
    select_prefix,
    unpack_importance,
    unpack_lora,
)


@dataclass(config=STRATEGY_CONFIG)
class OnlineLora(Progressive):
    """A growing adapter whose new block is held by (weight / 2) sum_ij F_ij (dW - dW*)_ij^2.

    Wei, Li and Marculescu, WACV 2025, arXiv 2411.05663. dW is the new block's update, dW* what it was at the latest
    plateau of the loss (0 before the first one of a session), and F the importance, added to at every plateau and at
    the end of a session: the mean squared gradient over the ``hard`` windows of highest loss. The loss is on a plateau
    when the mean and the variance of its last ``length`` steps are low; the next plateau counts after a peak only, a
    mean above the last plateau's by more than its standard deviation (Aljundi et al., 2019, arXiv 1812.03596).

    The rank adapts: of the new block, the fewest ranks that hold ``energy`` of its squared norm are published.

    Simplified: one new block a session, not one at each plateau; F of dW, not of the factors; the hard windows are
    taken from four times as many, and are not trained on once more.

    Memory: two vectors a layer. A plateau costs a forward pass over the candidates and a backward pass over the hard
    windows.
    """

    weight: float = Field(default=1e4, ge=0, le=1e12, description="lambda")
    hard: int = Field(default=4, ge=1, le=256, description="windows that the importance is estimated on")
    length: int = Field(default=5, ge=2, le=1000, description="steps of the loss that are looked at")
    mean: float = Field(
        default=0.5, gt=0, le=1e6, description="highest mean loss of a plateau, in nats per target token"
    )
    variance: float = Field(default=0.01, gt=0, le=1e6, description="highest variance of the loss on a plateau")
    energy: float = Field(default=0.95, gt=0, le=1, description="share of the new block's squared norm published")

    @override
    def begin(self, session: StrategyContext, past: StrategyState) -> None:
        super().begin(session, past)
        self._signal = LossSignal(self.length, self.mean, self.variance)
        self._anchor: dict[str, Factors] | None = None
        self._importance: dict[str, Importance] | None = unpack_importance(past, session.lora) if past else None

    @override
    def penalty(self) -> Tensor | None:
        if self._importance is None:
            return None
        return self.weight / 2 * weighted_distance(self._session.lora, self._anchor, self._importance)

    @override
    def after_step(self, loss: float) -> None:
        if self._signal.plateau(loss):
            self._anchor = {layer: factors.copy() for layer, factors in self._session.lora.items()}
            start = self._session.start
            self._importance = self._with_importance(
                self._anchor if start is None else stack_adapters(start, self._anchor)
            )

    def _with_importance(self, whole: Lora) -> dict[str, Importance]:
        return accumulate_importance(self._importance, self._session.importance(whole, self._hard(whole)), decay=1.0)

    def _hard(self, whole: Lora) -> list[Window]:
        session = self._session
        some = session.rng("hard").sample(list(session.windows), min(4 * self.hard, len(session.windows)))
        losses = session.losses(whole, some)
        return [some[i] for i in sorted(range(len(some)), key=lambda i: losses[i], reverse=True)[: self.hard]]

    @override
    def finish(self, trained: Lora) -> Lora:
        return super().finish(truncate_rank(trained, rank_for_energy(trained, self.energy))[0])

    @override
    def remember(self, published: Lora) -> StrategyState:
        return pack_importance(self._with_importance(published))

    @override
    def state(self) -> StrategyState:
        state = {"signal": self._signal.state()}
        if self._importance is not None:
            state |= pack_importance(self._importance)
        if self._anchor is not None:
            state |= add_prefix("anchor", pack_lora(self._anchor))
        return state

    @override
    def resume(self, state: StrategyState) -> None:
        self._signal.resume(state["signal"])
        anchor = select_prefix("anchor", state)
        self._anchor = unpack_lora(anchor, self._session.lora) if anchor else None
        held = any(key.startswith("rows/") for key in state)
        self._importance = unpack_importance(state, self._session.lora) if held else None


class LossSignal:
    """Finds plateaus of a loss. Each counts once: the next plateau counts only after a peak.

    Args:
        length: Number of latest steps that are looked at.
        mean: Maximum mean loss of a plateau, in nats per target token.
        variance: Maximum variance of the loss on a plateau.
    """

    def __init__(self, length: int, mean: float, variance: float) -> None:
        self._length, self._mean, self._variance = length, mean, variance
        self._losses: list[float] = []
        self._waiting = True
        self._peak = 0.0

    def plateau(self, loss: float) -> bool:
        """Add the loss of a step.

        Args:
            loss: Mean loss of the step, in nats per target token.

        Returns:
            Whether a new plateau is reached with this step.
        """
        self._losses = [*self._losses, loss][-self._length :]
        if len(self._losses) < self._length:
            return False
        mean, variance = fmean(self._losses), pvariance(self._losses)
        if self._waiting and mean < self._mean and variance < self._variance:
            self._waiting, self._peak = False, mean + variance**0.5
            return True
        self._waiting = self._waiting or mean > self._peak
        return False

    def state(self) -> Tensor:
        """Return the state as one tensor of float64."""
        return torch.tensor([self._waiting, self._peak, *self._losses], dtype=torch.float64)

    def resume(self, state: Tensor) -> None:
        """Restore a ``state`` that ``state()`` returned."""
        waiting, self._peak, *self._losses = state.tolist()
        self._waiting = bool(waiting)


@torch.no_grad()
def rank_for_energy(lora: Lora, energy: float) -> int:
    """Return the smallest rank, the same for all layers, at which ``truncate_rank`` keeps a share of the squared norm.

    Args:
        lora: The adapter.
        energy: The share to keep, from 0 to 1.

    Returns:
        The rank, at least 1.
    """
    squares = torch.stack([_singular_values(factors) ** 2 for factors in lora.values()]).sum(0)
    return min(int((squares.cumsum(0) < energy * squares.sum()).sum()) + 1, len(squares))


def _singular_values(factors: Factors) -> Tensor:
    """Return the singular values of dW in falling order, ``[rank]``, from two small triangular factors."""
    _, r_b = torch.linalg.qr(factors.scale * factors.b.double())
    _, r_a = torch.linalg.qr(factors.a.double().T)
    values: Tensor = torch.linalg.svdvals(r_b @ r_a.T)
    return values
