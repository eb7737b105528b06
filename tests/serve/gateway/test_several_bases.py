"""Requests reach the engines of the base model that their version was trained on, and no others."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from looper.platform.catalog import Catalog
from looper.platform.domain.names import InstanceName
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.scopes import TENANT_SCOPES
from looper.platform.domain.states import QueueStage
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import load_settings
from looper.platform.tenancy import issue_key
from looper.serve.deployment.engine_client import PooledEngineClient
from looper.serve.gateway.app import build_gateway
from looper.serve.protocol import EngineRequest, EngineUnavailable
from tests.platform.queue_harness import VERDICT
from tests.serve.gateway.harness import HELLO, GatewayHarness, ScriptedEngine, status_and_code

BASES = ("org/small", "org/large", "org/third")


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayHarness]:
    """A gateway of three base models; of each, acme has a skill, and of one that the cluster no longer has."""
    further = [{"base": name, "serve": {"max_model_len": 4096, "max_num_seqs": 4}} for name in BASES[1:]]
    settings = load_settings(home=tmp_path / "home", base=BASES[0], bases=further)
    catalog, store, engine = Catalog.open(settings), ObjectStore.open(settings), ScriptedEngine()
    catalog.create_tenant("acme")
    for number, base in enumerate((*BASES, "org/gone")):
        instance = InstanceName("acme", base.partition("/")[2])
        catalog.create_instance(instance, base)
        catalog.add_batch(instance, "b", source="x", trajectories=1)
        catalog.submit(instance, base=base, recipe=Recipe(rank=8))
        (job,) = catalog.claim("me", QueueStage.SYNTHESIS, limit=9, lease_s=60)
        catalog.publish(job.id, "me", digest=str(number) * 64, verdict=VERDICT, base_revision=base)
    key = issue_key(catalog, "acme", scopes=TENANT_SCOPES)
    app = build_gateway(settings, catalog, store, engine)
    with TestClient(app, headers={"authorization": f"Bearer {key}"}, raise_server_exceptions=False) as client:
        yield GatewayHarness(settings, catalog, engine, client, key, "0" * 64)
    catalog.close()


def test_a_request_names_the_base_model_of_its_version(gateway: GatewayHarness) -> None:
    for model in ("acme/small", "acme/large", *BASES):
        assert gateway.post(model).status_code == 200
    asked = [(request.base, request.digest, request.body["model"]) for request in gateway.engine.requests]
    assert asked == [
        ("org/small", "0" * 64, "0" * 64),
        ("org/large", "1" * 64, "1" * 64),
        *((base, None, base) for base in BASES),
    ]


def test_a_canary_on_another_base_model_gets_its_share(gateway: GatewayHarness) -> None:
    desk = InstanceName("acme", "small")
    catalog = gateway.catalog
    catalog.submit_move(desk, current=BASES[0], base=BASES[1], recipe=Recipe(rank=8))
    (job,) = catalog.claim("me", QueueStage.SYNTHESIS, limit=9, lease_s=60)
    catalog.publish(job.id, "me", digest="9" * 64, verdict=VERDICT, base_revision="r")
    catalog.set_channel(desk, "prod", "0" * 64)
    catalog.set_channel(desk, "canary", "9" * 64, 0.5)
    for conversation in range(40):
        gateway.post_turn("acme/small", conversation)
    pairs = {(request.base, request.digest) for request in gateway.engine.requests}
    assert pairs == {(BASES[0], "0" * 64), (BASES[1], "9" * 64)}


def test_limits_are_those_of_the_engines_that_answer(gateway: GatewayHarness) -> None:
    assert gateway.post("acme/small", n=16).status_code == 200
    assert gateway.post("acme/large", max_tokens=4000).status_code == 200
    for model, field in (("acme/large", {"n": 5}), ("org/small", {"max_tokens": 4000}), ("acme/small", {"n": 17})):
        (name,) = field
        response = gateway.post(model, **field)
        assert (response.status_code, response.json()["error"]["param"]) == (400, name)
    assert len(gateway.engine.requests) == 2


def test_all_base_models_are_listed_first_in_pages(gateway: GatewayHarness) -> None:
    names = [*BASES, "acme/gone", "acme/large", "acme/small", "acme/third"]
    for limit in (1, 2, 3, 4, 7):
        listed: list[str] = []
        after: dict[str, Any] = {}
        while True:
            page = gateway.client.get("/v1/models", params={"limit": limit} | after).json()
            listed += [model["id"] for model in page["data"]]
            if not page["has_more"]:
                break
            after = {"after": page["last_id"]}
        assert listed == names
    assert gateway.client.get("/v1/models/org/large").json()["id"] == "org/large"
    assert status_and_code(gateway.client.get("/v1/models/org/gone")) == (404, "model_not_found")


class RecordingPool:
    """A handle that raises with its name when it is asked for a replica."""

    def __init__(self, name: str) -> None:
        self.deployment_name = name

    def options(self, **_: Any) -> Any:
        raise LookupError(self.deployment_name)


POOLS: Any = {
    "small": {8: RecordingPool("small-8"), 64: RecordingPool("small-64")},
    "large": {16: RecordingPool("large")},
}


def ask(pools: Any, base: str, rank: int) -> None:
    request = EngineRequest("chat", {"messages": HELLO}, "d" * 64, rank, "t", base)

    async def send() -> None:
        async for _ in PooledEngineClient(pools).generate(request):
            raise AssertionError("nobody answers")

    asyncio.run(send())


@pytest.mark.parametrize(
    ("base", "rank", "pool"), [("small", 8, "small-8"), ("small", 16, "small-64"), ("large", 8, "large")]
)
def test_the_pool_is_that_of_the_base_model_and_the_rank(base: str, rank: int, pool: str) -> None:
    with pytest.raises(LookupError, match=f"^{pool}$"):
        ask(POOLS, base, rank)


def test_a_version_never_reaches_the_engines_of_another_base_model() -> None:
    with pytest.raises(EngineUnavailable) as refused:
        ask(POOLS, "gone", 8)
    response = refused.value.response
    assert (response.status, b"base_not_served" in response.body, b"base model gone" in response.body) == (
        422,
        True,
        True,
    )
    asyncio.run(PooledEngineClient(POOLS).prefetch("gone", "d" * 64, 8, 0))  # asks no replica
    with pytest.raises(LookupError, match="large"):  # engines of the only base model compare the weights themselves
        ask({"large": POOLS["large"]}, "earlier-name", 8)


def test_the_client_hears_why(gateway: GatewayHarness) -> None:
    error = EngineUnavailable(refusal())
    gateway.engine.script = [error]
    assert status_and_code(gateway.post("acme/gone")) == (422, "base_not_served")


def refusal() -> Any:
    with pytest.raises(EngineUnavailable) as refused:
        ask(POOLS, "org/gone", 8)
    return refused.value.response
