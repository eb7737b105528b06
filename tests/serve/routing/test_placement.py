"""The choice of a replica, as plain numbers."""

from collections import Counter, defaultdict
from random import Random

from looper.serve.routing.placement import MAX_LOAD_FACTOR, rank_replicas, select_replicas

REPLICAS = [f"replica-{number}" for number in range(8)]
DIGESTS = [f"{number:064x}" for number in range(2000)]
IDLE = dict.fromkeys(REPLICAS, 0)


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
