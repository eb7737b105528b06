"""Distillation: the previous version is the teacher of the new one. Used through ``registry.py``."""

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax
from typing_extensions import override

from looper.jobs.consolidation.strategies.strategy import STRATEGY_CONFIG, Strategy, StrategyContext, StrategyState


@dataclass(config=STRATEGY_CONFIG)
class Distill(Strategy):
    """weight * T^2 * mean over targets of KL(p_start || p_now), both softened by the temperature T.

    Learning without forgetting (Li and Hoiem, 2016, arXiv 1606.09282) with the loss of Hinton et al., 2015, arXiv
    1503.02531. The teacher is the version that the session goes on from. A step looks at a few windows, in turn: at the
    old ones where a strategy before it in the combination replays some (``replay+distill``), else at the new ones, as
    the first paper does.

    Memory: nothing. A step costs a forward pass of the teacher, and one forward and backward, over those windows.
    """

    weight: float = Field(default=1.0, ge=0, le=1e12, description="of the divergence, against the mean loss")
    temperature: float = Field(default=2.0, gt=0, le=1000, description="T")
    windows_per_step: int = Field(
        default=2, ge=1, le=16, description="windows that the two are compared on at each step"
    )

    @override
    def begin(self, session: StrategyContext, past: StrategyState) -> None:
        self._session = session
        windows = session.old or session.windows
        self._windows = session.rng("distill").sample(list(windows), len(windows))
        self._step = 0

    @override
    def penalty(self) -> Tensor | None:
        start = self._session.start
        if start is None:
            return None
        count = min(self.windows_per_step, len(self._windows))
        windows = [self._windows[(self._step * count + i) % len(self._windows)] for i in range(count)]
        with torch.no_grad():
            teacher = log_softmax(self._session.logits(start, windows) / self.temperature, dim=-1)
        student = log_softmax(self._session.logits(self._session.lora, windows) / self.temperature, dim=-1)
        divergence = kl_div(student, teacher, reduction="batchmean", log_target=True)
        return self.weight * self.temperature**2 * divergence

    @override
    def after_step(self, loss: float) -> None:
        self._step += 1

    @override
    def state(self) -> StrategyState:
        return {"step": torch.tensor(self._step)}

    @override
    def resume(self, state: StrategyState) -> None:
        self._step = int(state["step"])
