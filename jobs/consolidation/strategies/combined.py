"""Several strategies as one."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from looper.jobs.consolidation.adapters.lora import Factors, Lora, stack
from looper.jobs.consolidation.data.encode import Window
from looper.jobs.consolidation.strategies.strategy import State, Strategy, StrategyContext
from looper.jobs.consolidation.strategies.tensors import under, within
from looper.platform.domain.errors import InvalidInput


class Combined(Strategy):
    """Each of ``strategies``, by name, in their order; what each remembers is kept under its name.

    Penalties add up, and each ``finish`` works on what the one before it returned. If one ``grows``, it comes first and
    the others see the whole, its old blocks and the new one, as what is trained: so that a penalty on the update, a
    teacher or a merge means the same with it as without. Raises InvalidInput if more than one grows.
    """

    def __init__(self, strategies: Mapping[str, Strategy]) -> None:
        growing = [name for name, strategy in strategies.items() if strategy.grows]
        if len(growing) > 1:
            raise InvalidInput(f"strategies {' and '.join(growing)} each add a block of their own: combine only one")
        self.grows = bool(growing)
        self._members = dict(sorted(strategies.items(), key=lambda item: not item[1].grows))

    def begin(self, session: StrategyContext, past: State) -> None:
        self._whole = CombinedImportance(session.lora)
        self._windows: list[Window] = []
        for name, strategy in self._members.items():
            strategy.begin(session, within(name, past))
            if strategy.grows:
                self._whole.beside = strategy.constant()
                session = replace(session, lora=self._whole)
            self._windows += strategy.windows()
            session = replace(session, old=tuple(self._windows))

    def windows(self) -> list[Window]:
        return self._windows

    def constant(self) -> Lora | None:
        return next((strategy.constant() for strategy in self._members.values() if strategy.grows), None)

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for strategy in self._members.values() for parameter in strategy.parameters()]

    def penalty(self) -> Tensor | None:
        self._whole.beside = self.constant()  # anew: the graph of the one in the loss may be gone
        terms = [term for strategy in self._members.values() if (term := strategy.penalty()) is not None]
        return torch.stack(terms).sum() if terms else None

    def stepped(self, loss: float) -> None:
        self._whole.beside = self.constant()
        for strategy in self._members.values():
            strategy.stepped(loss)

    def finish(self, trained: Lora) -> Lora:
        for strategy in self._members.values():
            trained = strategy.finish(trained)
        return trained

    def remember(self, published: Lora) -> State:
        return self._gathered({name: strategy.remember(published) for name, strategy in self._members.items()})

    def state(self) -> State:
        return self._gathered({name: strategy.state() for name, strategy in self._members.items()})

    def resume(self, state: State) -> None:
        for name, strategy in self._members.items():
            strategy.resume(within(name, state))

    @staticmethod
    def _gathered(states: Mapping[str, State]) -> State:
        return {key: tensor for name, state in states.items() for key, tensor in under(name, state).items()}


class CombinedImportance(Mapping[str, Factors]):
    """The sum of the block in training and of what acts beside it in this step, made for a layer when asked."""

    def __init__(self, block: Lora) -> None:
        self._block = block
        self.beside: Lora | None = None

    def __getitem__(self, layer: str) -> Factors:
        if self.beside is None:
            return self._block[layer]
        return stack({layer: self.beside[layer]}, {layer: self._block[layer]})[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self._block)

    def __len__(self) -> int:
        return len(self._block)
