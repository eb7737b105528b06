"""When a replica is asked before it gets another request."""

import asyncio
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from ray.serve._private.common import DeploymentID
from ray.serve.request_router import ReplicaID
from typing_extensions import override

from looper.serve.routing import known_replicas, silent_replicas
from looper.serve.routing.silent_replicas import SILENCE_S, SilenceAwareRouter

FIRST, SECOND = (ReplicaID(name, DeploymentID("skills")) for name in ("first", "second"))


class RouterOfTwo(SilenceAwareRouter):
    """A router without Ray Serve, which writes down whose queue lengths it forgets."""

    def __init__(self) -> None:
        vars(self)["_use_replica_queue_len_cache"] = False
        self.initialize_state()
        self.running: dict[ReplicaID, Any] = {FIRST: None, SECOND: None}
        self.forgotten: list[ReplicaID] = []

    @property
    @override
    def curr_replicas(self) -> dict[ReplicaID, Any]:
        return self.running

    @property
    @override
    def replica_queue_len_cache(self) -> Any:
        return SimpleNamespace(invalidate_key=self.forgotten.append)

    @override
    async def choose_replicas(self, *_: object) -> NoReturn:
        raise AssertionError("nothing is chosen in this test")

    def ask(self) -> list[ReplicaID]:
        """Return the replicas that are asked first."""
        self.forgotten = []
        self.ask_silent_replicas()
        return self.forgotten


def test_a_replica_is_asked_first_while_nothing_is_heard_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    router, now = RouterOfTwo(), 100.0
    monkeypatch.setattr(silent_replicas, "time", SimpleNamespace(monotonic=lambda: now))
    router.on_send_request(FIRST)
    router.on_send_request(SECOND)
    router.on_new_queue_len_info(SECOND, 1)
    assert router.ask() == []
    now += SILENCE_S / 2 + 0.1
    router.on_send_request(FIRST)  # it is silent since the first of the two
    router.on_send_request(SECOND)
    now += SILENCE_S / 2
    assert router.ask() == router.ask() == [FIRST]
    router.on_new_queue_len_info(FIRST, 2)
    assert router.ask() == []


def test_a_replica_that_is_gone_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    router, now = RouterOfTwo(), 100.0
    monkeypatch.setattr(silent_replicas, "time", SimpleNamespace(monotonic=lambda: now))
    router.on_send_request(FIRST)
    now += SILENCE_S + 1
    del router.running[FIRST]
    assert router.ask() == []
    router.running[FIRST] = None
    assert router.ask() == [], "another one of the same name has not been sent anything"


def test_a_request_is_accepted_once_the_router_says_so() -> None:
    async def test() -> None:
        request, other = object(), object()
        with known_replicas.expecting_acceptance(request) as is_accepted:
            known_replicas.record_acceptance([other])
            assert not is_accepted()
            known_replicas.record_acceptance([request])
            assert is_accepted()

    asyncio.run(test())
