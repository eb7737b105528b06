"""The choice of one process, from the queue lengths that it knows."""

from collections import Counter

import pytest

from looper.serve.protocol import EngineRequest
from looper.serve.routing import known_replicas
from looper.serve.routing.placement import Placement
from looper.serve.routing.replica_selector import MEAN_REFRESH_S, ReplicaSelector

REPLICAS = [f"replica-{number}" for number in range(8)]
DIGEST = "a" * 64


class SelectorOfEight:
    """A selector with replicas whose queue lengths, reads and time the test controls."""

    def __init__(self) -> None:
        self.lengths: dict[str, int | None] = dict.fromkeys(REPLICAS, None)
        self.reads = Counter[str]()
        self.now = 100.0
        self.selector = ReplicaSelector(16, self.read, lambda: self.now)
        self.selector.update(REPLICAS)

    def read(self, replica: str) -> int | None:
        self.reads[replica] += 1
        return self.lengths[replica]


def test_a_replica_of_unknown_load_counts_as_idle() -> None:
    assert SelectorOfEight().selector.select(DIGEST) == list(Placement(REPLICAS).rank(DIGEST))


def test_more_sequences_of_a_request_count() -> None:
    eight = SelectorOfEight()
    home, second = list(Placement(REPLICAS).rank(DIGEST))[:2]
    eight.selector.more_seqs.add("request", home, [EngineRequest("chat", {}, None, 0, "", num_seqs=9)])
    assert eight.selector.select(DIGEST)[0] == second
    eight.selector.more_seqs.remove("request")
    eight.now += 1
    assert eight.selector.select(DIGEST)[0] == home


def test_all_loads_are_read_again_only_after_a_while() -> None:
    eight = SelectorOfEight()
    eight.selector.select(DIGEST)
    last = list(Placement(REPLICAS).rank(DIGEST))[-1]
    eight.lengths = dict.fromkeys(REPLICAS, 40)
    eight.now += MEAN_REFRESH_S * len(REPLICAS)
    eight.reads.clear()
    eight.selector.select(DIGEST)
    assert eight.reads[last] >= 1
    eight.lengths = dict.fromkeys(REPLICAS, 0)
    many = [f"replica-{number}" for number in range(400)]
    eight.lengths = dict.fromkeys(many, 0)
    eight.selector.update(many)
    eight.selector.select(DIGEST)
    eight.reads.clear()
    eight.selector.select(DIGEST)
    assert eight.reads.total() < 20


def test_a_burst_between_two_readings_raises_the_mean() -> None:
    """All requests of a moment spread evenly, although no queue length but those of this process is known."""
    eight = SelectorOfEight()
    loads = Counter[str]()
    eight.lengths = loads  # type: ignore[assignment]
    for _ in range(16 * len(REPLICAS)):
        loads[eight.selector.select(DIGEST)[0]] += 1
    assert set(loads.values()) == {16}


def test_avoided_replicas_get_nothing_and_do_not_count() -> None:
    eight = SelectorOfEight()
    home, second, *others = Placement(REPLICAS).rank(DIGEST)
    eight.lengths = dict.fromkeys(REPLICAS, 6)
    chosen = eight.selector.select(DIGEST, {home})
    assert chosen == [second, *others]
    assert eight.selector.select(DIGEST, REPLICAS) == []


def test_replicas_that_come_and_go_are_used_at_once() -> None:
    eight = SelectorOfEight()
    home = eight.selector.select(DIGEST)[0]
    eight.selector.update([replica for replica in REPLICAS if replica != home])
    assert home not in eight.selector.select(DIGEST)
    eight.selector.update(())
    assert eight.selector.select(DIGEST) == []


def test_a_replica_is_avoided_for_its_time_unless_all_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_replicas, "_avoided_until", {})
    assert known_replicas.find_avoided(REPLICAS) == set()
    known_replicas.avoid_replica(REPLICAS[0], 50)
    known_replicas.avoid_replica("of another pool", 50)
    assert known_replicas.find_avoided(REPLICAS) == {REPLICAS[0]}
    assert known_replicas.find_avoided(REPLICAS[:1]) == set(), "there is no other"
    known_replicas.avoid_replica(REPLICAS[1], 90)
    assert known_replicas.find_avoided(REPLICAS[:2]) == {REPLICAS[1]}, "the first has been tried longer ago"
    known_replicas.avoid_replica(REPLICAS[0], 0)
    assert known_replicas.find_avoided(REPLICAS) == {REPLICAS[1]}
