"""Progressive adapters: what was learned is frozen, and each session adds a block of its own."""

from pydantic.dataclasses import dataclass

from looper.jobs.consolidation.adapters.lora import Lora, stack
from looper.jobs.consolidation.strategies.strategy import OPTIONS, State, Strategy, StrategyContext


@dataclass(config=OPTIONS)
class Progressive(Strategy):
    """dW = sum_i b_i a_i, of which only the newest block is trained.

    After progressive networks (Rusu et al., 2016, arXiv 1606.04671). Simplified: their columns have connections that
    are learned from old columns to new ones, and the task says which column answers; here all blocks act on everything,
    so that one adapter can be served.

    Memory: nothing but the adapter, whose rank grows by the recipe's every session until the trainer truncates it; a
    step's cost grows with it.
    """

    grows = True

    def begin(self, session: StrategyContext, past: State) -> None:
        self._session = session

    def constant(self) -> Lora | None:
        return self._session.start

    def finish(self, trained: Lora) -> Lora:
        beside = self._session.start
        return trained if beside is None else stack(beside, trained)
