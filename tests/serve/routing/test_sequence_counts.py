"""A replica's load is its sequences."""

from looper.serve.protocol import EngineRequest
from looper.serve.routing.sequence_counts import SequenceCounts


def request(num_seqs: int) -> EngineRequest:
    return EngineRequest("chat", {}, None, 0, "", num_seqs=num_seqs)


def test_sequences_count_until_their_request_ends() -> None:
    counts = SequenceCounts()
    counts.add("first", "a", [request(4)])
    counts.add("second", "a", [request(2)])
    counts.add("third", "b", [request(1)])
    counts.add("prefetch", "b", ["digest", 0.0])
    assert [counts.of(replica) for replica in ("a", "b", "c")] == [4, 0, 0]
    counts.remove("first")
    counts.remove("third")
    counts.remove("unknown")
    assert counts.of("a") == 1
    counts.remove("second")
    assert counts.of("a") == 0
    assert not counts._by_replica
    assert not counts._by_request
