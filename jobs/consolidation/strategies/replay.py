"""Experience replay: train on some old windows beside the new ones. Used through ``registry.py``."""

from random import Random

from pydantic import Field
from pydantic.dataclasses import dataclass
from typing_extensions import override

from looper.jobs.consolidation.adapters.lora import Lora
from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.strategies.replay_memory import ReplayMemory
from looper.jobs.consolidation.strategies.strategy import STRATEGY_CONFIG, Strategy, StrategyContext, StrategyState


@dataclass(config=STRATEGY_CONFIG)
class Replay(Strategy):
    """Experience replay (Robins, 1995; Rolnick et al., 2019, arXiv 1811.11682) from a memory by session and by rule.

    Each session of the lineage keeps the same share of the memory, chosen so that its rules stay covered, and sessions
    are replayed by turns (``replay_memory.py``). A window is replayed in one epoch of a session and not in all of them,
    so that a session of E epochs replays E times as many different windows at the same cost. Keeping the memory
    balanced by class is Chaudhry et al., 2019, arXiv 1902.10486; here a session and its rules stand for the classes.

    Memory: ``capacity`` windows. A step costs nothing more. A session has at most ``share`` more steps and tokens,
    however many sessions there were.
    """

    share: float = Field(
        default=2.0, gt=0, le=100, description="old windows for each new one in every epoch, and tokens as well"
    )
    capacity: int = Field(default=1024, ge=1, le=65_536, description="windows kept")

    @override
    def begin(self, session: StrategyContext, past: StrategyState) -> None:
        self._session = session
        self._past = past
        self._memory = ReplayMemory(past)
        self._replayed: list[int] = []

    @override
    def windows(self) -> list[Window]:
        kept, session = self._memory.windows, self._session
        count = min(session.epochs * len(kept), max(1, round(self.share * session.total_windows)))
        self._replayed = self._choose(count, round(self.share * session.total_tokens))
        return [kept[i] for i in self._replayed]

    def _choose(self, count: int, max_tokens: int) -> list[int]:
        """Return indices into the memory's windows, as many as ``windows`` replays."""
        return self._memory.draw(count, max_tokens)

    def _rng(self, purpose: str) -> Random:
        """Return a generator that differs between sessions of one seed, so that other places are drawn each time."""
        return self._session.rng(f"{purpose}:{self._memory.seen}")

    @override
    def remember(self, published: Lora) -> StrategyState:
        memory = ReplayMemory(self._past)  # anew: a second call returns the same
        memory.mark(self._replayed)
        memory.add_session(self._session.windows, self.capacity, self._rng("keep"))
        return memory.pack()


@dataclass(config=STRATEGY_CONFIG)
class LossReplay(Replay):
    """Replay of the windows that the previous version knows least: p_i ~ loss_i ^ ``exponent``.

    Prioritized experience replay (Schaul et al., 2016, arXiv 1511.05952) with the loss for the temporal-difference
    error. Simplified: priorities are taken once, when the session begins, over ``pool`` times the windows needed, whose
    turn it is, and the bias is not weighted away. Drawn without replacement by the largest u_i ^ (1 / p_i) (Efraimidis
    and Spirakis, 2006).

    Costs a forward pass over the pool at the beginning.
    """

    exponent: float = Field(default=0.6, ge=0, le=10, description="0 draws uniformly, 1 in proportion to the loss")
    pool: int = Field(default=2, ge=1, le=16, description="candidates for each window needed")

    @override
    def _choose(self, count: int, max_tokens: int) -> list[int]:
        pool = list(dict.fromkeys(super()._choose(self.pool * count, self.pool * max_tokens)))
        if not pool:
            return []
        session = self._session
        start = session.lora if session.start is None else session.start
        losses = session.losses(start, [self._memory.windows[i] for i in pool])
        rng = self._rng("priority")
        keys = [rng.random() ** (1 / max(loss, 1e-6) ** self.exponent) for loss in losses]
        best = [pool[i] for i in sorted(range(len(pool)), key=lambda i: keys[i], reverse=True)]
        return self._fit(best, count, max_tokens)

    def _fit(self, best: list[int], count: int, max_tokens: int) -> list[int]:
        """Take the best windows within the bounds, again and again while there are too few of them."""
        chosen: list[int] = []
        tokens = 0
        while len(chosen) < count:
            i = best[len(chosen) % len(best)]
            tokens += len(self._memory.windows[i])
            if chosen and tokens > max_tokens:
                break
            chosen.append(i)
        return chosen
