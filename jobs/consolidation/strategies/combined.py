"""Several strategies as one. ``registry.build_strategy`` makes every strategy through this class."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from typing_extensions import override

from looper.jobs.consolidation.adapters.lora import Factors, Lora, stack_adapters
from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.strategies.strategy import Strategy, StrategyContext, StrategyState
from looper.jobs.consolidation.strategies.tensors import add_prefix, select_prefix
from looper.platform.domain.errors import InvalidInput


class Combined(Strategy):
    """Calls each strategy in its order, and keeps the state of each under its name.

    Penalties add up, and each ``finish`` gets what the previous one returned. A strategy that ``grows`` comes first.
    The others then see the sum of its old blocks and its new block as the trained adapter. So a penalty on the update,
    a teacher or a merge means the same with it and without it.

    Args:
        strategies: The strategies by name, in their order.

    Raises:
        InvalidInput: If more than one strategy grows.
    """

    def __init__(self, strategies: Mapping[str, Strategy]) -> None:
        growing = [name for name, strategy in strategies.items() if strategy.grows]
        if len(growing) > 1:
            raise InvalidInput(f"strategies {' and '.join(growing)} each add a block of their own: combine only one")
        self.grows = bool(growing)
        self._members = dict(sorted(strategies.items(), key=lambda item: not item[1].grows))

    @override
    def begin(self, session: StrategyContext, past: StrategyState) -> None:
        self._whole = CombinedLora(session.lora)
        self._windows: list[Window] = []
        for name, strategy in self._members.items():
            strategy.begin(session, select_prefix(name, past))
            if strategy.grows:
                self._whole.beside = strategy.frozen_lora()
                session = replace(session, lora=self._whole)
            self._windows += strategy.windows()
            session = replace(session, old=tuple(self._windows))

    @override
    def windows(self) -> list[Window]:
        return self._windows

    @override
    def frozen_lora(self) -> Lora | None:
        return next((strategy.frozen_lora() for strategy in self._members.values() if strategy.grows), None)

    @override
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for strategy in self._members.values() for parameter in strategy.parameters()]

    @override
    def penalty(self) -> Tensor | None:
        self._whole.beside = self.frozen_lora()  # anew: the graph of the one in the loss may be gone
        terms = [term for strategy in self._members.values() if (term := strategy.penalty()) is not None]
        return torch.stack(terms).sum() if terms else None

    @override
    def after_step(self, loss: float) -> None:
        self._whole.beside = self.frozen_lora()
        for strategy in self._members.values():
            strategy.after_step(loss)

    @override
    def finish(self, trained: Lora) -> Lora:
        for strategy in self._members.values():
            trained = strategy.finish(trained)
        return trained

    @override
    def remember(self, published: Lora) -> StrategyState:
        return self._gathered({name: strategy.remember(published) for name, strategy in self._members.items()})

    @override
    def state(self) -> StrategyState:
        return self._gathered({name: strategy.state() for name, strategy in self._members.items()})

    @override
    def resume(self, state: StrategyState) -> None:
        for name, strategy in self._members.items():
            strategy.resume(select_prefix(name, state))

    @staticmethod
    def _gathered(states: Mapping[str, StrategyState]) -> StrategyState:
        return {key: tensor for name, state in states.items() for key, tensor in add_prefix(name, state).items()}


class CombinedLora(Mapping[str, Factors]):
    """The sum of the trained block and of what acts beside it in this step. A layer's sum is made when it is read.

    Args:
        block: The block in training.
    """

    def __init__(self, block: Lora) -> None:
        self._block = block
        self.beside: Lora | None = None

    def __getitem__(self, layer: str) -> Factors:
        if self.beside is None:
            return self._block[layer]
        return stack_adapters({layer: self.beside[layer]}, {layer: self._block[layer]})[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self._block)

    def __len__(self) -> int:
        return len(self._block)
