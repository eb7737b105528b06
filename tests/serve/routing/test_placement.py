"""The choice of a replica, as plain numbers."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from math import ceil
from random import Random

import pytest

from looper.serve.routing.placement import MAX_CHOICES, MAX_LOAD_FACTOR, Placement

REPLICAS = [f"replica-{number}" for number in range(8)]
DIGESTS = [f"{number:064x}" for number in range(2000)]
IDLE = dict.fromkeys(REPLICAS, 0)


def rank_replicas(digest: str, replicas: Iterable[str]) -> list[str]:
    return list(Placement(replicas).rank(digest))


def select_replicas(digest: str, loads: Mapping[str, int], max_num_seqs: int) -> list[str]:
    mean_load = sum(loads.values()) / len(loads)
    return Placement(loads).select(digest, loads.__getitem__, mean_load, max_num_seqs)


def sort_all(digest: str, loads: Mapping[str, int], max_num_seqs: int) -> list[str]:
    """The rule without any shortcut: all replicas below the maximum load, ordered by their queues, then by rank."""
    max_load = max(max_num_seqs // 4, ceil(MAX_LOAD_FACTOR * (sum(loads.values()) + 1) / len(loads)))
    candidates = [replica for replica in rank_replicas(digest, loads) if loads[replica] < max_load]
    return sorted(candidates, key=lambda replica: max(0, loads[replica] - max_num_seqs + 1))


@pytest.mark.parametrize("replicas", [1, 2, 15, 16, 17, 200])
@pytest.mark.parametrize("max_load", [1, 6, 20, 60])
def test_a_choice_is_the_beginning_of_the_full_order(replicas: int, max_load: int) -> None:
    random = Random(replicas + max_load)
    for digest in DIGESTS[:20]:
        loads = {f"replica-{number}": random.randrange(max_load) for number in range(replicas)}
        assert select_replicas(digest, loads, 16) == sort_all(digest, loads, 16)[:MAX_CHOICES]


def test_a_rank_has_every_replica_once() -> None:
    replicas = [f"replica-{number}" for number in range(100)]
    assert sorted(rank_replicas(DIGESTS[0], replicas)) == sorted(replicas)


def test_the_order_is_the_same_in_every_process_and_release() -> None:
    """Gateways of two releases that disagree would load each adapter on two replicas."""
    assert rank_replicas("a" * 64, REPLICAS)[:3] == ["replica-5", "replica-0", "replica-4"]


def test_versions_have_a_preferred_replica_and_are_spread_evenly() -> None:
    homes = Counter(select_replicas(digest, IDLE, 16)[0] for digest in DIGESTS)
    assert homes.keys() == set(REPLICAS)
    assert max(homes.values()) < 1.25 * len(DIGESTS) / len(REPLICAS)
    assert [select_replicas(digest, IDLE, 16)[0] for digest in DIGESTS[:50]] == [
        select_replicas(digest, dict.fromkeys(reversed(REPLICAS), 0), 16)[0] for digest in DIGESTS[:50]
    ], "independent of the order of the replicas"


def test_only_the_versions_of_a_removed_replica_move() -> None:
    removed, remaining = REPLICAS[3], [replica for replica in REPLICAS if replica != REPLICAS[3]]
    for digest in DIGESTS:
        before = rank_replicas(digest, REPLICAS)
        assert rank_replicas(digest, remaining) == [replica for replica in before if replica != removed]


def test_a_popular_version_spreads_before_it_waits_and_always_over_the_same_replicas() -> None:
    digest = DIGESTS[0]
    order = rank_replicas(digest, REPLICAS)
    loads = dict(IDLE)
    selected: list[str] = []
    for _ in range(16 * len(REPLICAS)):
        selected.append(select_replicas(digest, loads, 16)[0])
        loads[selected[-1]] += 1
    assert [replica for at, replica in enumerate(selected) if replica not in selected[:at]] == order
    assert set(loads.values()) == {16}, "every replica runs max_num_seqs sequences"


def test_a_replica_with_a_low_load_keeps_its_versions() -> None:
    home, *others = rank_replicas(DIGESTS[0], REPLICAS)
    assert select_replicas(DIGESTS[0], {home: 3, **dict.fromkeys(others, 0)}, 16)[0] == home
    assert select_replicas(DIGESTS[0], {home: 4, **dict.fromkeys(others, 0)}, 16)[0] == others[0]


def test_no_request_waits_while_another_replica_can_run_it() -> None:
    digest = DIGESTS[1]
    first, second, *others = rank_replicas(digest, REPLICAS)
    loads = {first: 20, second: 15, **dict.fromkeys(others, 18)}
    assert select_replicas(digest, loads, 16)[0] == second
    loads[second] = 16
    assert select_replicas(digest, loads, 16)[0] == second, "all replicas are full and this one has the shortest queue"


def test_under_a_skewed_load_no_replica_has_much_more_than_the_mean() -> None:
    random = Random(0)
    weights = [1 / rank for rank in range(1, len(DIGESTS) + 1)]
    loads = dict(IDLE)
    running: list[str] = []
    homes: defaultdict[str, set[str]] = defaultdict(set)
    for step, digest in enumerate(random.choices(DIGESTS, weights, k=5000)):
        replica = select_replicas(digest, loads, 16)[0]
        homes[digest].add(replica)
        loads[replica] += 1
        running.append(replica)
        if len(running) > 60:
            loads[running.pop(random.randrange(len(running)))] -= 1
            assert max(loads.values()) <= MAX_LOAD_FACTOR * 61 / len(REPLICAS) + 1, step
    cold = [len(homes[digest]) for digest in DIGESTS[200:] if homes[digest]]
    assert sum(cold) / len(cold) < 2, "rarely requested versions stay on their replica"


def test_the_base_model_goes_to_the_replica_with_the_lowest_load() -> None:
    loads = {replica: number for number, replica in enumerate(reversed(REPLICAS))}
    assert select_replicas("", loads, 16)[0] == REPLICAS[-1]


def test_without_replicas_there_is_no_choice() -> None:
    assert Placement([]).select(DIGESTS[0], IDLE.__getitem__, 0.0, 16) == []


def test_a_mean_that_is_too_low_still_gives_a_choice() -> None:
    loads = dict.fromkeys(REPLICAS, 9) | {REPLICAS[2]: 8}
    assert Placement(REPLICAS).select(DIGESTS[0], loads.__getitem__, 0.0, 16)[0] == REPLICAS[2]
