from collections.abc import Sequence
from dataclasses import replace

from looper.jobs.consolidation.adapters.lora import Lora
from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.strategies.replay import LossReplay, Replay
from looper.jobs.consolidation.strategies.replay_memory import ReplayMemory
from looper.jobs.consolidation.strategies.strategy import StrategyState
from looper.jobs.consolidation.strategies.tensors import pack_windows, unpack_windows
from tests.jobs.consolidation.strategies.life import random_lora, session, stored, window, zero_lora

LORA = zero_lora(0)


def test_windows_survive_the_store() -> None:
    windows = [
        Window.of((5, 6, 7), (0.0, 1.0, 0.5), ((1, 2), (2, 3))),
        Window.of((49151,), (1.0,), ()),
        Window.of((1, 2), (0.0, 2.0), ((1, 2),)),
    ]
    assert unpack_windows(stored(pack_windows(windows))) == windows
    assert unpack_windows(stored(pack_windows([]))) == []


def kept(state: StrategyState) -> list[Window]:
    return ReplayMemory(state).windows


def learn(strategy: Replay, windows: Sequence[Window], past: StrategyState, seed: int = 0) -> StrategyState:
    strategy.begin(session(LORA, windows=windows, seed=seed), past)
    return stored(strategy.remember(LORA))


def test_everything_is_kept_while_there_is_room() -> None:
    past = learn(Replay(capacity=5), [window(0, 1), window(0, 2)], {})
    past = learn(Replay(capacity=5), [window(1, 1)], past)
    assert set(kept(past)) == {window(0, 1), window(0, 2), window(1, 1)}
    assert past["seen"] == 3


def test_a_smaller_capacity_shrinks_the_memory() -> None:
    past = learn(Replay(capacity=9), [window(0, i) for i in range(9)], {})
    past = learn(Replay(capacity=4), [window(1, 0)], past)
    assert len(kept(past)) == 4
    assert past["seen"] == 10


def test_the_share_is_of_the_new_windows() -> None:
    past = learn(Replay(), [window(0, i) for i in range(9)], {})
    new = [window(1, i) for i in range(6)]
    for share, epochs, count in ((0.5, 1, 3), (0.01, 1, 1), (1.0, 1, 6), (4.0, 1, 9), (0.5, 2, 6), (0.5, 3, 9)):
        strategy = Replay(share=share)
        strategy.begin(replace(session(LORA, windows=new), epochs=epochs), past)
        old = strategy.windows()
        assert len(old) == len(set(old)) == count
        assert set(old) <= set(kept(past))


def test_the_share_is_of_the_new_tokens_too() -> None:
    past = learn(Replay(), [window(*range(12)) for _ in range(9)], {})
    strategy = Replay(share=1)
    strategy.begin(session(LORA, windows=[window(1, i) for i in range(18)]), past)
    assert len(strategy.windows()) == 18 * 2 // 12


def test_later_sessions_draw_other_windows() -> None:
    past = learn(Replay(), [window(0, i) for i in range(20)], {})
    drawn = []
    for _ in range(2):
        strategy = Replay(share=1)
        strategy.begin(session(LORA, windows=[window(1, i) for i in range(8)]), past)
        drawn.append({each for each in strategy.windows() if each.tokens[0] == 0})
        past = stored(strategy.remember(LORA))
    assert len(drawn[0]) == 8
    assert not drawn[0] & drawn[1]


def by_last_token(lora: Lora, windows: Sequence[Window]) -> list[float]:
    return [float(window.tokens[-1]) for window in windows]


def test_priorities_follow_the_loss() -> None:
    # p = loss^1: a window with loss 3 is drawn 3 times as often as one with loss 1, 1500 of 2000 times, with a standard
    # deviation of sqrt(2000 * 3/4 * 1/4) = 19.4.
    old, new = [window(0, 1), window(0, 3)], [window(1, 0)]
    past = learn(LossReplay(), old, {})
    hard = 0
    for seed in range(2000):
        strategy = LossReplay(share=1, exponent=1)
        strategy.begin(session(LORA, random_lora(1), new, seed, losses=by_last_token), past)
        (drawn,) = strategy.windows()
        hard += drawn == window(0, 3)
    assert abs(hard - 1500) < 5 * 19.4


def test_only_the_pool_is_measured() -> None:
    past = learn(LossReplay(), [window(0, i) for i in range(30)], {})
    measured: list[int] = []

    def losses(lora: Lora, windows: Sequence[Window]) -> list[float]:
        measured.append(len(windows))
        return by_last_token(lora, windows)

    strategy = LossReplay(share=0.5, pool=3)
    strategy.begin(session(LORA, random_lora(1), [window(1, i) for i in range(8)], losses=losses), past)
    assert len(strategy.windows()) == 4
    assert measured == [12]  # of 30
