"""Progressive adapters: old blocks are frozen, and each session adds a block. Used through ``registry.py``."""

from pydantic.dataclasses import dataclass
from typing_extensions import override

from looper.jobs.consolidation.adapters.lora import Lora, stack_adapters
from looper.jobs.consolidation.strategies.strategy import STRATEGY_CONFIG, Strategy, StrategyContext, StrategyState


@dataclass(config=STRATEGY_CONFIG)
class Progressive(Strategy):
    """dW = sum_i b_i a_i, of which only the newest block is trained.

    After progressive networks (Rusu et al., 2016, arXiv 1606.04671). Simplified: their columns have connections that
    are learned from old columns to new ones, and the task says which column answers; here all blocks act on everything,
    so that one adapter can be served.

    Memory: nothing but the adapter, whose rank grows by the recipe's every session until the trainer truncates it; a
    step's cost grows with it.

    In the gym's five sessions it protected nothing alone (docs/strategies.md).
    """

    grows = True

    @override
    def begin(self, session: StrategyContext, past: StrategyState) -> None:
        self._session = session

    @override
    def frozen_lora(self) -> Lora | None:
        return self._session.start

    @override
    def finish(self, trained: Lora) -> Lora:
        beside = self._session.start
        return trained if beside is None else stack_adapters(beside, trained)
