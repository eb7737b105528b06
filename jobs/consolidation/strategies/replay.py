"""Replay: train on some old windows beside the new ones."""

from random import Random

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from looper.jobs.consolidation.adapters.lora import Lora
from looper.jobs.consolidation.data.encode import Window
from looper.jobs.consolidation.strategies.strategy import OPTIONS, State, Strategy, StrategyContext
from looper.jobs.consolidation.strategies.tensors import pack_windows, unpack_windows


@dataclass(config=OPTIONS)
class Replay(Strategy):
    """Experience replay (Robins, 1995; Rolnick et al., 2019, arXiv 1811.11682) from a reservoir.

    The reservoir is a uniform sample of all windows ever learned, kept by algorithm R (Vitter, 1985): the n-th window
    takes a random place out of n, and is kept if that place is one of the ``capacity``. A session trains on a uniform
    sample of the reservoir.

    Memory: ``capacity`` windows. A step costs nothing more; a session has as many more steps as the share says.
    """

    share: float = Field(default=2.0, gt=0, description="old windows for each new one, while the reservoir has as many")
    capacity: int = Field(default=512, ge=1, description="windows kept")

    def begin(self, session: StrategyContext, past: State) -> None:
        self._session = session
        self._kept = unpack_windows({key: tensor for key, tensor in past.items() if key != "seen"})
        self._seen = int(past["seen"]) if past else 0

    def windows(self) -> list[Window]:
        count = min(len(self._kept), max(1, round(self.share * len(self._session.windows))))
        return self._choose(count)

    def _choose(self, count: int) -> list[Window]:
        return self._rng("replay").sample(self._kept, count)

    def _rng(self, purpose: str) -> Random:
        """Not with the same draws in every session of one seed, or the same places would be taken again and again."""
        return self._session.rng(f"{purpose}:{self._seen}")

    def remember(self, published: Lora) -> State:
        rng = self._rng("reservoir")
        kept, seen = list(self._kept), self._seen
        if len(kept) > self.capacity:  # it was larger in the session before
            kept = rng.sample(kept, self.capacity)
        for window in self._session.windows:
            seen += 1
            place = rng.randrange(seen)
            if len(kept) < self.capacity:
                kept.append(window)
            elif place < self.capacity:
                kept[place] = window
        return {**pack_windows(kept), "seen": torch.tensor(seen)}


@dataclass(config=OPTIONS)
class LossReplay(Replay):
    """Replay of what the version before knows least: windows are drawn by p_i ~ loss_i ^ ``exponent``.

    Prioritised experience replay (Schaul et al., 2016, arXiv 1511.05952) with the loss for the temporal-difference
    error. Simplified: priorities are taken once, when the session begins, over ``pool`` times the windows needed, and
    the bias is not weighted away. Drawn without replacement by the largest u_i ^ (1 / p_i) (Efraimidis and Spirakis,
    2006).

    Costs a forward pass over the pool at the beginning.
    """

    exponent: float = Field(default=0.6, ge=0, description="0 draws uniformly, 1 in proportion to the loss")
    pool: int = Field(default=2, ge=1, description="candidates for each window needed")

    def _choose(self, count: int) -> list[Window]:
        pool = super()._choose(min(len(self._kept), self.pool * count))
        session = self._session
        losses = session.losses(session.lora if session.start is None else session.start, pool)
        rng = self._rng("priority")
        keys = [rng.random() ** (1 / max(loss, 1e-6) ** self.exponent) for loss in losses]
        best = sorted(range(len(pool)), key=lambda i: keys[i], reverse=True)[:count]
        return [pool[i] for i in sorted(best)]
