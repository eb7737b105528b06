"""The control plane over real HTTP, through the Python client."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import orjson
import pytest
import uvicorn
from fastapi import FastAPI

from looper.platform.api import control_plane_router
from looper.platform.api.error_handlers import install_error_handlers
from looper.platform.api.request_gate import RequestGate
from looper.platform.catalog import Catalog
from looper.platform.client import Client
from looper.platform.domain.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    StoreUnavailable,
    Unauthorized,
)
from looper.platform.domain.names import InstanceName
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.scopes import TENANT_SCOPES, Scope
from looper.platform.domain.scores import GateVerdict, Scores
from looper.platform.domain.states import ConsolidationState, QueueStage
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings, load_settings
from looper.platform.tenancy import issue_key
from tests.platform.postgresql import free_port
from tests.platform.test_adapters import MANIFEST

SCORES = Scores(accuracy=0.5, loss=1.0, actions=4, tokens=40)
VERDICT = GateVerdict(passed=True, reason="better", candidate=SCORES, current=SCORES)
EPISODE = {
    "task_id": "t1",
    "messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}],
    "success": True,
}


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """Serve an application on a free port of this machine, and yield its URL."""
    server = uvicorn.Server(uvicorn.Config(app, port=free_port(), log_level="error"))
    started = threading.Event()
    startup = server.startup

    async def announce(sockets: object = None) -> None:
        await startup(sockets)  # type: ignore[arg-type]
        started.set()

    server.startup = announce  # type: ignore[assignment]
    thread = threading.Thread(target=server.run)
    thread.start()
    assert started.wait(30)
    yield f"http://127.0.0.1:{server.config.port}"
    server.should_exit = True
    thread.join()


@contextmanager
def serve_control_plane(settings: Settings, catalog: Catalog, store: ObjectStore) -> Iterator[str]:
    """Serve the control plane on a free port of this machine, and yield its URL."""
    app = FastAPI()
    app.include_router(control_plane_router(settings, catalog, store, RequestGate(settings.api)))
    install_error_handlers(app)
    with served(app) as url:
        yield url


class Platform:
    """A running control plane with its catalog and object store."""

    def __init__(self, url: str, catalog: Catalog, store: ObjectStore) -> None:
        self.url, self.catalog, self.store = url, catalog, store

    def client(self, tenant: str, scopes: frozenset[Scope] = TENANT_SCOPES) -> Client:
        return Client(self.url, issue_key(self.catalog, tenant, scopes=scopes))


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    settings = load_settings(home=tmp_path)
    store = ObjectStore.open(settings)
    with closing(Catalog.open(settings)) as catalog:
        catalog.create_tenant("acme")
        catalog.create_tenant("rival")
        with serve_control_plane(settings, catalog, store) as url:
            yield Platform(url, catalog, store)


@pytest.fixture
def episodes(tmp_path: Path) -> Path:
    file = tmp_path / "monday.jsonl"
    file.write_bytes(orjson.dumps(EPISODE) + b"\n")
    return file


def publish(platform: Platform, instance: InstanceName, id: str) -> str:
    from looper.platform.adapters import AdapterFiles
    from looper.platform.adapters import publish as to_store

    platform.catalog.claim("me", QueueStage.SYNTHESIS, limit=9, lease_s=60)
    manifest = MANIFEST.model_copy(update={"consolidation": id})
    digest = to_store(platform.store, instance.tenant, AdapterFiles(b"w", b'{"r": 16}', manifest.to_bytes()))
    platform.catalog.publish(id, "me", digest=digest, verdict=VERDICT, base_revision="r")
    return digest


def test_ingest_consolidate_promote_and_roll_back(platform: Platform, episodes: Path) -> None:
    desk = InstanceName("acme", "desk")
    with platform.client("acme") as client:
        (file,) = client.ingest("desk", episodes).files
        assert (file.path, file.trajectories, file.kept, file.rejected) == ("monday.jsonl", 1, 1, 0)
        client.ingest("desk", episodes)
        assert [(one.name, one.trajectories) for one in client.instances()] == [("acme/desk", 1)]

        (job,) = client.consolidate(["desk"], recipe=Recipe(rank=8), priority=-3)
        assert (job.instance, job.state, job.recipe.rank, job.priority) == (
            "acme/desk",
            ConsolidationState.QUEUED,
            8,
            -3,
        )
        assert (job.started_at, job.ended_at) == (None, None)
        first = publish(platform, desk, job.id)
        (done,) = client.wait([job], poll_interval_s=0.01)
        assert (done.state, done.digest) == (ConsolidationState.PUBLISHED, first)
        assert done.started_at is not None
        assert done.ended_at is not None
        assert done.created_at < done.started_at < done.ended_at
        assert [event.what for event in client.events(job.id)][-1] == f"prod -> {first}"

        episodes.write_bytes(orjson.dumps(EPISODE | {"task_id": "t2"}) + b"\n")
        client.ingest("desk", episodes)
        (job,) = client.consolidate(["desk"])
        second = publish(platform, desk, job.id)
        assert client.skill("desk").channels == {"prod": second}
        assert client.rollback("desk").channels == {"prod": first}
        canary = client.promote("desk", second, channel="canary", share=0.1)
        assert (canary.channels, canary.shares) == ({"canary": second, "prod": first}, {"canary": 0.1})
        assert client.drop("desk", "canary").channels == {"prod": first}
        client.promote("desk", second)
        revoked = client.revoke("desk", second)
        assert revoked.channels == {"prod": first}
        assert [version.revoked_at is None for version in revoked.versions] == [False, True]
        assert [skill.model for skill in client.skills()] == ["acme/desk"]


def test_a_tenant_cannot_see_or_change_another_tenants_objects(
    platform: Platform, episodes: Path, tmp_path: Path
) -> None:
    with platform.client("acme") as acme, platform.client("rival") as rival:
        acme.ingest("desk", episodes)
        (job,) = acme.consolidate(["desk"])
        digest = publish(platform, InstanceName("acme", "desk"), job.id)
        assert [*rival.instances(), *rival.consolidations(), *rival.skills()] == []
        rival.ingest("desk", episodes)
        forbidden: list[Callable[[], object]] = [
            lambda: rival.consolidation(job.id),
            lambda: rival.cancel(job.id),
            lambda: rival.events(job.id),
            lambda: rival.report(job.id),
            lambda: rival.consolidations_by_id([job.id]),
            lambda: rival.download("desk", digest, tmp_path),
            lambda: rival.promote("desk", digest),
            lambda: rival.drop("desk", "prod"),
            lambda: rival.revoke("desk", digest),
        ]
        for call in forbidden:
            with pytest.raises(NotFound):
                call()
        for path in ("instances", "skills/desk", "instances/desk/batches", "instances/desk/events", "keys", "limits"):
            with pytest.raises(Forbidden, match="the key belongs to tenant rival and cannot act for acme"):
                rival.acting_for("acme")._send("GET", f"/{path}")


def test_the_client_raises_the_errors_that_the_server_raised(
    platform: Platform, episodes: Path, tmp_path: Path
) -> None:
    with Client(platform.url, "looper_no_key") as client, pytest.raises(Unauthorized):
        client.instances()
    with platform.client("acme") as client:
        with pytest.raises(InvalidInput, match="is not a valid name"):
            client.ingest("..", episodes)
        with pytest.raises(NotFound, match="instance acme/nobody does not exist"):
            client.consolidate(["nobody"])
        nonsense = tmp_path / "notes.txt"
        nonsense.write_text("hello")
        with pytest.raises(InvalidInput, match=r"notes\.txt"):
            client.ingest("desk", nonsense)
        client.ingest("desk", episodes)
        with pytest.raises(InvalidInput, match=r"above serve\.max_lora_rank"):
            client.consolidate(["desk"], recipe=Recipe(rank=64))
        with pytest.raises(InvalidInput, match="priority: Input should be less than or equal to 10"):
            client.consolidate(["desk"], priority=11)
        with pytest.raises(Forbidden, match="priority 1 is above 0, which only an operator's key may give"):
            client.consolidate(["desk"], priority=1)
        assert list(client.consolidations()) == []
        with pytest.raises(InvalidInput, match=r"recipe\.rank: Input should be greater"):
            client.consolidate(["desk"], recipe=Recipe.model_construct(**Recipe().model_dump() | {"rank": 0}))
        (job,) = client.consolidate(["desk"])
        assert client.cancel(job.id).state == ConsolidationState.CANCELLED
        with pytest.raises(Conflict):
            client.cancel(job.id)
    gone = Client("http://127.0.0.1:1", "looper_no_key", max_retries=0)
    with gone as client, pytest.raises(StoreUnavailable, match="no answer"):
        client.instances()


def test_the_openapi_document_has_every_route(platform: Platform) -> None:
    import httpx

    document = httpx.get(f"{platform.url}/openapi.json").json()
    routes = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert routes == {
        "GET /api/v1/cluster",
        "GET /api/v1/instances",
        "POST /api/v1/instances",
        "GET /api/v1/instances/{instance}",
        "POST /api/v1/instances/{instance}/move",
        "GET /api/v1/instances/{instance}/batches",
        "GET /api/v1/instances/{instance}/events",
        "POST /api/v1/instances/{instance}/trajectories",
        "POST /api/v1/instances/{instance}/uploads",
        "PUT /api/v1/instances/{instance}/uploads/{upload}/parts/{number}",
        "POST /api/v1/instances/{instance}/uploads/{upload}/end",
        "GET /api/v1/recipe",
        "POST /api/v1/recipe",
        "POST /api/v1/consolidations",
        "GET /api/v1/consolidations",
        "GET /api/v1/consolidations/{id}",
        "GET /api/v1/consolidations/{id}/events",
        "GET /api/v1/consolidations/{id}/report",
        "POST /api/v1/consolidations/{id}/cancel",
        "GET /api/v1/skills",
        "GET /api/v1/skills/{instance}",
        "GET /api/v1/skills/{instance}/versions",
        "GET /api/v1/skills/{instance}/versions/{digest}/files/{file}",
        "PUT /api/v1/skills/{instance}/channels/{channel}",
        "DELETE /api/v1/skills/{instance}/channels/{channel}",
        "POST /api/v1/skills/{instance}/channels/{channel}/rollback",
        "POST /api/v1/skills/{instance}/versions/{digest}/revoke",
        "GET /api/v1/key",
        "GET /api/v1/keys",
        "POST /api/v1/keys/{key}/revoke",
        "GET /api/v1/limits",
        "GET /api/v1/audit",
        "GET /api/v1/tenants",
        "POST /api/v1/tenants",
        "POST /api/v1/tenants/{tenant}/keys",
        "GET /api/v1/tenants/{tenant}/limits",
        "PUT /api/v1/tenants/{tenant}/limits",
    }
