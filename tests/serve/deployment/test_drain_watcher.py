"""Nodes that are drained: where requests and prefetches go, and when."""

import asyncio
from collections.abc import Collection, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from typing_extensions import override

from looper.serve.deployment import drain_watcher
from looper.serve.deployment.drain_watcher import DrainWatcher
from looper.serve.deployment.engine_client import PooledEngineClient
from looper.serve.routing import known_replicas
from looper.serve.routing.replica_router import LIST_ADAPTERS, AdapterAffinityRouter

NODES = {"a": "node-1", "b": "node-1", "c": "node-2", "d": "node-3"}
DIGESTS = [letter * 64 for letter in "0123456789abcdef"]


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(known_replicas, "_nodes", {})
    monkeypatch.setattr(known_replicas, "_counts", {})
    yield
    known_replicas.leave_nodes((), ())


class NamedReplica(NamedTuple):
    unique_id: str


class RouterOfTest(AdapterAffinityRouter):
    """A router without Ray Serve, whose replicas are idle."""

    def __init__(self) -> None:
        self.initialize_state(max_num_seqs=4)
        self.running: list[Any] = [
            SimpleNamespace(replica_id=NamedReplica(id), node_id=node) for id, node in NODES.items()
        ]

    @property
    @override
    def replica_queue_len_cache(self) -> Any:
        return {}

    def choose(self, digest: str, method: str = "generate") -> list[str]:
        """Return the replicas for a call, best first."""
        metadata = SimpleNamespace(multiplexed_model_id=digest, call_method=method)
        pending: Any = SimpleNamespace(metadata=metadata)
        chosen = asyncio.run(self.choose_replicas(self.running, pending))
        return [replica.replica_id.unique_id for rank in chosen for replica in rank]


def test_prefetches_leave_a_node_before_requests_do_and_the_others_keep_their_order() -> None:
    router = RouterOfTest()
    before = {digest: router.choose(digest) for digest in DIGESTS}
    assert {order[0] for order in before.values()} == set(NODES)
    without = {digest: [id for id in order if NODES[id] != "node-1"] for digest, order in before.items()}
    known_replicas.leave_nodes({"node-1"}, ())
    assert {digest: router.choose(digest) for digest in DIGESTS} == before
    assert {digest: router.choose(digest, "prefetch") for digest in DIGESTS} == without
    known_replicas.leave_nodes({"node-1"}, {"node-1"})
    assert {digest: router.choose(digest) for digest in DIGESTS} == without
    known_replicas.leave_nodes((), ())
    assert {digest: router.choose(digest) for digest in DIGESTS} == before


def test_nodes_that_are_all_drained_go_on() -> None:
    router, all_nodes = RouterOfTest(), set(NODES.values())
    known_replicas.leave_nodes(all_nodes, all_nodes)
    for method in ("generate", "prefetch"):
        assert sorted(router.choose(DIGESTS[0], method)) == sorted(NODES)


def test_a_replica_is_asked_for_its_adapters_by_its_id() -> None:
    router = RouterOfTest()
    known_replicas.leave_nodes({"node-1"}, {"node-1"})
    assert router.choose("b", LIST_ADAPTERS) == ["b"]
    assert router.choose("gone", LIST_ADAPTERS) == []


class Answer:
    """What a call of a replica returns."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __await__(self) -> Any:
        yield from asyncio.sleep(0).__await__()
        return self._value

    def cancel(self) -> None:
        """The answer has come already."""


class RecordingPool:
    """A handle of a pool whose replicas have adapters of their own."""

    deployment_name = "skills-r8"

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def options(self, *, method_name: str, multiplexed_model_id: str) -> Any:
        self.calls.append((method_name, multiplexed_model_id))
        adapters = [f"{multiplexed_model_id}-first", f"{multiplexed_model_id}-second"]
        return SimpleNamespace(remote=lambda *_: Answer(adapters if method_name == LIST_ADAPTERS else None))


def test_what_the_engines_of_a_node_have_is_prefetched() -> None:
    known_replicas.watch_nodes("skills-r8", lambda: NODES)
    pool: Any = RecordingPool()
    asyncio.run(PooledEngineClient({"base": {8: pool}}).move_adapters({"node-1"}))
    asked = [id for method, id in pool.calls if method == LIST_ADAPTERS]
    moved = [digest for method, digest in pool.calls if method == "prefetch"]
    assert asked == ["a", "b"]
    assert sorted(moved) == ["a-first", "a-second", "b-first", "b-second"]


class SlowMover:
    """Moves adapters when it is told to."""

    def __init__(self) -> None:
        self.moved: list[set[str]] = []
        self.has_begun, self.may_end = asyncio.Event(), asyncio.Event()

    async def move_adapters(self, nodes: Collection[str]) -> None:
        self.moved.append(set(nodes))
        self.has_begun.set()
        await self.may_end.wait()


def test_a_node_gets_requests_until_its_adapters_are_elsewhere() -> None:
    async def test() -> None:
        drained, mover = {"node-1"}, SlowMover()
        watcher = DrainWatcher(mover, lambda: drained)
        poll = asyncio.create_task(watcher.poll())
        await mover.has_begun.wait()
        assert (set(known_replicas.leaving_nodes()), set(known_replicas.left_nodes())) == ({"node-1"}, set())
        mover.may_end.set()
        await poll
        assert known_replicas.left_nodes() == {"node-1"}
        drained.add("node-2")
        await watcher.poll()
        assert known_replicas.left_nodes() == {"node-1", "node-2"}
        drained.clear()  # both have ended
        await watcher.poll()
        assert (set(known_replicas.leaving_nodes()), set(known_replicas.left_nodes())) == (set(), set())
        assert mover.moved == [{"node-1"}, {"node-2"}]

    asyncio.run(test())


def test_a_node_is_left_although_its_adapters_cannot_be_moved_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain_watcher, "MAX_MOVE_S", 0.01)

    async def test() -> None:
        await DrainWatcher(SlowMover(), lambda: {"node-1"}).poll()
        assert known_replicas.left_nodes() == {"node-1"}

    asyncio.run(test())
