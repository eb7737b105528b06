"""I-LoRA: fast weights learn, slow weights follow them and are published. Used through ``registry.py``."""

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from typing_extensions import override

from looper.jobs.consolidation.adapters.lora import Factors, Lora, stack_adapters
from looper.jobs.consolidation.strategies.strategy import STRATEGY_CONFIG, Strategy, StrategyContext, StrategyState
from looper.jobs.consolidation.strategies.tensors import pack_lora, unpack_lora


@dataclass(config=STRATEGY_CONFIG)
class ILora(Strategy):
    """After every step slow <- beta slow + (1 - beta) fast, factor by factor; slow is what is published.

    Interpolation-based LoRA (Ren et al., 2024, arXiv 2402.18865). Simplified: the replay it is defined with comes by
    composition (``replay+i-lora``), the consistency loss between fast and slow is left out (``distill`` is its
    relative), and the fast weights begin each session from the slow ones. Slow remembers about 1 / (1 - beta) steps: a
    session should have several times as many.

    Memory: nothing. A step costs one pass over the adapter.

    In the gym's five sessions it protected nothing alone (docs/strategies.md).
    """

    beta: float = Field(default=0.9, ge=0, lt=1, description="share of the slow weights that stays, per step")

    @override
    def begin(self, session: StrategyContext, past: StrategyState) -> None:
        self._session = session
        self._slow = self._fast()

    def _fast(self) -> dict[str, Factors]:
        with torch.no_grad():
            return stack_adapters(self._session.lora)

    @override
    def after_step(self, loss: float) -> None:
        for layer, fast in self._fast().items():
            self._slow[layer].a.lerp_(fast.a, 1 - self.beta)
            self._slow[layer].b.lerp_(fast.b, 1 - self.beta)

    @override
    def finish(self, trained: Lora) -> Lora:
        return self._slow

    @override
    def state(self) -> StrategyState:
        return pack_lora(self._slow)

    @override
    def resume(self, state: StrategyState) -> None:
        self._slow = unpack_lora(state, self._session.lora)
