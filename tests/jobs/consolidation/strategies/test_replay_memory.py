"""The memory for replay: after 50 and 200 sessions, no session and no rule has run out of windows."""

from collections import Counter
from random import Random

import pytest
import torch

from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.strategies.replay_memory import (
    WINDOWS_OF_UNKNOWN_SESSIONS,
    ReplayMemory,
    find_rules,
    order_by_coverage,
)
from looper.jobs.consolidation.strategies.strategy import StrategyState
from looper.jobs.consolidation.strategies.tensors import pack_windows
from tests.jobs.consolidation.strategies.life import stored

RULES, SIZE = 4, 18


def window(session: int, rule: int, copied: int) -> Window:
    """A window whose prompt has a number, and whose call has that number and the code of a rule."""
    prompt, call = (1, copied), (2, copied, 1000 + session * RULES + rule)
    return Window.of(prompt + call, (0.0, 0.0, 1.0, 1.0, 1.0), ((2, 5),))


def windows_of(session: int) -> list[Window]:
    rng = Random(session)
    return [window(session, min(rng.randrange(RULES + 2), RULES - 1), 100 + i) for i in range(SIZE)]


def session_of(kept: Window) -> int:
    return (int(kept.tokens[-1]) - 1000) // RULES


def live(sessions: int, capacity: int, replayed: int) -> tuple[ReplayMemory, list[int], list[int]]:
    """Return the memory after a lineage, how often each session was replayed, and how much each session replayed."""
    state: StrategyState = {}
    times: Counter[int] = Counter()
    costs = []
    for number in range(sessions):
        memory = ReplayMemory(state)
        drawn = memory.draw(replayed, max_tokens=10**9)
        memory.mark(drawn)
        times.update(session_of(memory.windows[i]) for i in drawn)
        costs.append(len(drawn))
        memory.add_session(windows_of(number), capacity, Random(number))
        state = stored(memory.pack())
    return ReplayMemory(state), [times[number] for number in range(sessions)], costs


@pytest.mark.parametrize(("sessions", "capacity"), [(50, 512), (200, 512), (50, 1024), (200, 1024)])
def test_the_coverage_does_not_thin_and_the_cost_does_not_grow(sessions: int, capacity: int) -> None:
    memory, times, costs = live(sessions, capacity, replayed=27)
    assert len(memory.windows) == min(capacity, sessions * SIZE)
    kept = Counter(map(session_of, memory.windows))
    assert len(kept) == sessions
    assert max(kept.values()) - min(kept.values()) <= 1
    rules = {int(each.tokens[-1]) for each in memory.windows}
    # A session that keeps q windows keeps min(q, its rules) of its rules.
    possible = sum(
        min(kept[number], len({int(each.tokens[-1]) for each in windows_of(number)})) for number in range(sessions)
    )
    assert len(rules) == possible
    if capacity >= RULES * sessions:
        assert len(rules) == len({int(each.tokens[-1]) for number in range(sessions) for each in windows_of(number)})
    assert costs[4] == costs[-1] == 27
    # In the last rounds every session gets its turn as often as any other.
    before = live(sessions - 20, capacity, replayed=27)[1]
    turns = [after - earlier for after, earlier in zip(times, before, strict=False)][: sessions - 40]
    assert max(turns) - min(turns) <= 2


def test_a_session_of_three_epochs_replays_every_session_of_fifty() -> None:
    share, epochs = 2, 3
    memory, _, _ = live(49, 1024, share * SIZE)
    drawn = memory.draw(epochs * share * SIZE, max_tokens=10**9)
    assert len({session_of(memory.windows[i]) for i in drawn}) == 49
    assert len(set(drawn)) == len(drawn)


def test_rules_are_what_a_call_says_and_its_prompt_does_not() -> None:
    assert find_rules(window(0, 1, 100)) == {(2, 100, 1001), (2,), (1001,)}
    without_calls = Window.of((1, 5, 5, 7), (0.0, 0.0, 1.0, 1.0))
    assert find_rules(without_calls) == {(5, 7), (7,)}


def test_any_beginning_of_the_order_covers_the_rules() -> None:
    common = [window(0, 0, 100 + i) for i in range(30)]
    rare = [window(0, rule, 200) for rule in (1, 2, 3)]
    first = order_by_coverage([*common, *rare], Random(0))
    assert sorted(first, key=hash) == sorted([*common, *rare], key=hash)
    assert {int(each.tokens[-1]) for each in first[:4]} == {1000, 1001, 1002, 1003}


def test_turns_go_to_what_was_replayed_least_recently() -> None:
    memory = ReplayMemory({})
    memory.add_session([window(0, 0, 1), window(0, 1, 1)], 9, Random(0))
    memory.add_session([window(1, 0, 1)], 9, Random(0))
    first = memory.draw(3, max_tokens=100)
    assert [session_of(memory.windows[i]) for i in first] == [0, 1, 0]
    assert len(set(first)) == 3
    assert memory.draw(3, max_tokens=100) == first  # drawing alone changes nothing
    memory.mark(first[:1])
    assert memory.draw(2, max_tokens=100) == [first[1], first[2]]
    assert len(memory.draw(7, max_tokens=100)) == 7  # again and again, while there are too few


def test_tokens_are_bounded_but_something_is_always_replayed() -> None:
    memory = ReplayMemory({})
    memory.add_session([window(0, rule, 1) for rule in range(4)], 9, Random(0))
    assert [len(memory.draw(4, max_tokens=most)) for most in (0, 9, 10, 14, 20)] == [1, 1, 2, 2, 4]


def test_a_memory_of_an_earlier_release_is_read() -> None:
    old = [window(0, 0, i) for i in range(20)]
    memory = ReplayMemory(stored({**pack_windows(old), "seen": torch.tensor(70)}))
    assert (memory.windows, memory.seen) == (old, 70)
    drawn = memory.draw(4, max_tokens=100)
    # Of the two runs that count as sessions, each gets its turn.
    assert sorted(i // WINDOWS_OF_UNKNOWN_SESSIONS for i in drawn) == [0, 0, 1, 1]
    memory.add_session([window(1, 0, 1)], 10, Random(0))
    assert len(memory.windows) == 10
    assert memory.seen == 71


def test_a_session_larger_than_the_memory_is_sampled() -> None:
    memory = ReplayMemory({})
    memory.add_session([window(0, 0, i) for i in range(40)], 8, Random(0))
    memory.add_session([window(1, 0, i) for i in range(40)], 8, Random(0))
    assert Counter(map(session_of, memory.windows)) == {0: 4, 1: 4}
    assert memory.seen == 80
