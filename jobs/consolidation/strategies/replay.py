"""Experience replay: train on some old windows beside the new ones. Used through ``registry.py``."""

from random import Random

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from typing_extensions import override

from looper.jobs.consolidation.adapters.lora import Lora
from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.strategies.strategy import STRATEGY_CONFIG, Strategy, StrategyContext, StrategyState
from looper.jobs.consolidation.strategies.tensors import pack_windows, unpack_windows


@dataclass(config=STRATEGY_CONFIG)
class Replay(Strategy):
    """Experience replay (Robins, 1995; Rolnick et al., 2019, arXiv 1811.11682) from a reservoir.

    The reservoir is a uniform sample of all windows ever learned, kept by algorithm R (Vitter, 1985): the n-th window
    takes a random place out of n, and is kept if that place is one of the ``capacity``. A session trains on a uniform
    sample of the reservoir.

    Memory: ``capacity`` windows. A step costs nothing more; a session has as many more steps as the share says.
    """

    share: float = Field(
        default=2.0, gt=0, le=100, description="old windows for each new one, while the reservoir has as many"
    )
    capacity: int = Field(default=512, ge=1, le=65_536, description="windows kept")

    @override
    def begin(self, session: StrategyContext, past: StrategyState) -> None:
        self._session = session
        self._kept = unpack_windows({key: tensor for key, tensor in past.items() if key != "seen"})
        self._seen = int(past["seen"]) if past else 0

    @override
    def windows(self) -> list[Window]:
        count = min(len(self._kept), max(1, round(self.share * len(self._session.windows))))
        return self._choose(count)

    def _choose(self, count: int) -> list[Window]:
        return self._rng("replay").sample(self._kept, count)

    def _rng(self, purpose: str) -> Random:
        """Return a generator that differs between sessions of one seed, so that other places are drawn each time."""
        return self._session.rng(f"{purpose}:{self._seen}")

    @override
    def remember(self, published: Lora) -> StrategyState:
        rng = self._rng("reservoir")
        kept, seen = list(self._kept), self._seen
        if len(kept) > self.capacity:  # the capacity was larger in the previous session
            kept = rng.sample(kept, self.capacity)
        for window in self._session.windows:
            seen += 1
            place = rng.randrange(seen)
            if len(kept) < self.capacity:
                kept.append(window)
            elif place < self.capacity:
                kept[place] = window
        return {**pack_windows(kept), "seen": torch.tensor(seen)}


@dataclass(config=STRATEGY_CONFIG)
class LossReplay(Replay):
    """Replay of the windows that the previous version knows least: p_i ~ loss_i ^ ``exponent``.

    Prioritized experience replay (Schaul et al., 2016, arXiv 1511.05952) with the loss for the temporal-difference
    error. Simplified: priorities are taken once, when the session begins, over ``pool`` times the windows needed, and
    the bias is not weighted away. Drawn without replacement by the largest u_i ^ (1 / p_i) (Efraimidis and Spirakis,
    2006).

    Costs a forward pass over the pool at the beginning.
    """

    exponent: float = Field(default=0.6, ge=0, le=10, description="0 draws uniformly, 1 in proportion to the loss")
    pool: int = Field(default=2, ge=1, le=16, description="candidates for each window needed")

    def _choose(self, count: int) -> list[Window]:
        pool = super()._choose(min(len(self._kept), self.pool * count))
        session = self._session
        losses = session.losses(session.lora if session.start is None else session.start, pool)
        rng = self._rng("priority")
        keys = [rng.random() ** (1 / max(loss, 1e-6) ** self.exponent) for loss in losses]
        best = sorted(range(len(pool)), key=lambda i: keys[i], reverse=True)[:count]
        return [pool[i] for i in sorted(best)]
