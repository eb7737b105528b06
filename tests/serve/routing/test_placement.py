"""Where requests go, as plain numbers."""

from collections import Counter, defaultdict
from random import Random

from looper.serve.routing.placement import SLACK, place, ranked

REPLICAS = [f"replica-{number}" for number in range(8)]
DIGESTS = [f"{number:064x}" for number in range(2000)]
IDLE = dict.fromkeys(REPLICAS, 0)


def test_a_version_has_its_replica_and_versions_are_spread_evenly() -> None:
    homes = Counter(place(digest, IDLE, 16)[0] for digest in DIGESTS)
    assert homes.keys() == set(REPLICAS)
    assert max(homes.values()) < 1.25 * len(DIGESTS) / len(REPLICAS)
    assert [place(digest, IDLE, 16)[0] for digest in DIGESTS[:50]] == [
        place(digest, dict.fromkeys(reversed(REPLICAS), 0), 16)[0] for digest in DIGESTS[:50]
    ], "whatever the order in which replicas are listed"


def test_with_a_replica_that_goes_only_its_own_versions_move() -> None:
    gone, rest = REPLICAS[3], [replica for replica in REPLICAS if replica != REPLICAS[3]]
    for digest in DIGESTS:
        before = ranked(digest, REPLICAS)
        assert ranked(digest, rest) == [replica for replica in before if replica != gone]


def test_a_hot_version_spreads_before_it_waits_and_always_over_the_same_replicas() -> None:
    digest = DIGESTS[0]
    order = ranked(digest, REPLICAS)
    loads = dict(IDLE)
    went: list[str] = []
    for _ in range(16 * len(REPLICAS)):
        went.append(place(digest, loads, 16)[0])
        loads[went[-1]] += 1
    assert [replica for at, replica in enumerate(went) if replica not in went[:at]] == order
    assert set(loads.values()) == {16}, "all seats were taken"


def test_a_replica_with_little_to_do_keeps_its_versions() -> None:
    home, *others = ranked(DIGESTS[0], REPLICAS)
    assert place(DIGESTS[0], {home: 3, **dict.fromkeys(others, 0)}, 16)[0] == home
    assert place(DIGESTS[0], {home: 4, **dict.fromkeys(others, 0)}, 16)[0] == others[0]


def test_none_waits_where_another_has_a_free_seat() -> None:
    digest = DIGESTS[1]
    first, second, *others = ranked(digest, REPLICAS)
    loads = {first: 20, second: 15, **dict.fromkeys(others, 18)}
    assert place(digest, loads, 16)[0] == second
    loads[second] = 16
    assert place(digest, loads, 16)[0] == second, "all wait, it has the shortest queue"


def test_under_skewed_load_no_replica_has_much_more_than_the_mean() -> None:
    random = Random(0)
    weights = [1 / rank for rank in range(1, len(DIGESTS) + 1)]
    loads = dict(IDLE)
    running: list[str] = []
    homes: defaultdict[str, set[str]] = defaultdict(set)
    for step, digest in enumerate(random.choices(DIGESTS, weights, k=5000)):
        replica = place(digest, loads, 16)[0]
        homes[digest].add(replica)
        loads[replica] += 1
        running.append(replica)
        if len(running) > 60:
            loads[running.pop(random.randrange(len(running)))] -= 1
            assert max(loads.values()) <= SLACK * 61 / len(REPLICAS) + 1, step
    cold = [len(homes[digest]) for digest in DIGESTS[200:] if homes[digest]]
    assert sum(cold) / len(cold) < 2, "those that are rarely asked for stay at home"


def test_the_base_model_goes_where_there_is_least_to_do() -> None:
    loads = {replica: number for number, replica in enumerate(reversed(REPLICAS))}
    assert place("", loads, 16)[0] == REPLICAS[-1]
