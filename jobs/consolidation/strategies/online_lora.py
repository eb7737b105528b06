"""Online-LoRA: the loss itself tells when something was learned, and what mattered for it is held from then on."""

from statistics import fmean, pvariance

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from looper.jobs.consolidation.adapters.lora import Factors, Lora, stack, truncate
from looper.jobs.consolidation.data.encode import Window
from looper.jobs.consolidation.strategies.importance import added, distance
from looper.jobs.consolidation.strategies.progressive import Progressive
from looper.jobs.consolidation.strategies.strategy import OPTIONS, Importance, State, StrategyContext
from looper.jobs.consolidation.strategies.tensors import (
    pack_importance,
    pack_lora,
    under,
    unpack_importance,
    unpack_lora,
    within,
)


@dataclass(config=OPTIONS)
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

    weight: float = Field(default=1e4, ge=0, description="lambda")
    hard: int = Field(default=4, ge=1, description="windows that the importance is estimated on")
    length: int = Field(default=5, ge=2, description="steps of the loss that are looked at")
    mean: float = Field(default=0.5, gt=0, description="highest mean loss of a plateau, in nats per target token")
    variance: float = Field(default=0.01, gt=0, description="highest variance of the loss on a plateau")
    energy: float = Field(default=0.95, gt=0, le=1, description="share of the new block's squared norm published")

    def begin(self, session: StrategyContext, past: State) -> None:
        super().begin(session, past)
        self._signal = LossSignal(self.length, self.mean, self.variance)
        self._anchor: dict[str, Factors] | None = None
        self._importance: dict[str, Importance] | None = unpack_importance(past, session.lora) if past else None

    def penalty(self) -> Tensor | None:
        if self._importance is None:
            return None
        return self.weight / 2 * distance(self._session.lora, self._anchor, self._importance)

    def stepped(self, loss: float) -> None:
        if self._signal.plateau(loss):
            self._anchor = {layer: factors.copy() for layer, factors in self._session.lora.items()}
            start = self._session.start
            self._importance = self._with_importance(self._anchor if start is None else stack(start, self._anchor))

    def _with_importance(self, whole: Lora) -> dict[str, Importance]:
        return added(self._importance, self._session.importance(whole, self._hard(whole)), decay=1.0)

    def _hard(self, whole: Lora) -> list[Window]:
        session = self._session
        some = session.rng("hard").sample(list(session.windows), min(4 * self.hard, len(session.windows)))
        losses = session.losses(whole, some)
        return [some[i] for i in sorted(range(len(some)), key=lambda i: losses[i], reverse=True)[: self.hard]]

    def finish(self, trained: Lora) -> Lora:
        return super().finish(truncate(trained, rank_holding(trained, self.energy))[0])

    def remember(self, published: Lora) -> State:
        return pack_importance(self._with_importance(published))

    def state(self) -> State:
        state = {"signal": self._signal.state()}
        if self._importance is not None:
            state |= pack_importance(self._importance)
        if self._anchor is not None:
            state |= under("anchor", pack_lora(self._anchor))
        return state

    def resume(self, state: State) -> None:
        self._signal.resume(state["signal"])
        anchor = within("anchor", state)
        self._anchor = unpack_lora(anchor, self._session.lora) if anchor else None
        held = any(key.startswith("rows/") for key in state)
        self._importance = unpack_importance(state, self._session.lora) if held else None


class LossSignal:
    """Plateaus of a loss, each counted once: the next one only after a peak."""

    def __init__(self, length: int, mean: float, variance: float) -> None:
        self._length, self._mean, self._variance = length, mean, variance
        self._losses: list[float] = []
        self._waiting = True
        self._peak = 0.0

    def plateau(self, loss: float) -> bool:
        """Whether with ``loss`` a new plateau is reached."""
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
        return torch.tensor([self._waiting, self._peak, *self._losses], dtype=torch.float64)

    def resume(self, state: Tensor) -> None:
        waiting, self._peak, *self._losses = state.tolist()
        self._waiting = bool(waiting)


@torch.no_grad()
def rank_holding(lora: Lora, energy: float) -> int:
    """The smallest rank, one for all layers, at which ``truncate`` keeps that share of the squared norm; at least 1."""
    squares = torch.stack([_singular_values(factors) ** 2 for factors in lora.values()]).sum(0)
    return min(int((squares.cumsum(0) < energy * squares.sum()).sum()) + 1, len(squares))


def _singular_values(factors: Factors) -> Tensor:
    """Of dW, in falling order ``[rank]``, from two small triangular factors."""
    _, r_b = torch.linalg.qr(factors.scale * factors.b.double())
    _, r_a = torch.linalg.qr(factors.a.double().T)
    values: Tensor = torch.linalg.svdvals(r_b @ r_a.T)
    return values
