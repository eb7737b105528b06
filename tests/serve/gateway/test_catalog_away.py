"""The gateway while PostgreSQL hangs, is killed, or is replaced by one that lacks the last commits."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest
from fastapi.testclient import TestClient

from looper.platform import revocation
from looper.platform.catalog import Catalog
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings, load_settings
from looper.platform.tenancy import issue_key
from looper.serve.gateway.app import build_gateway
from tests.platform.clocks import move_clock
from tests.platform.postgresql import PostgresqlServer, run_postgresql
from tests.serve.gateway.harness import DESK, HELLO, ScriptedEngine, publish, status_and_code, wait_until


class GatewayOnPostgresql:
    """A gateway whose catalog is on PostgreSQL."""

    def __init__(self, folder: Path, server: PostgresqlServer, stack: ExitStack) -> None:
        self.folder, self.server, self._stack = folder, server, stack
        self.settings: Settings = load_settings(
            home=folder / "home",
            base="org/base",
            catalog={"url": server.create_database(), "timeout_s": 1},
        )
        self.catalog, self.store = Catalog.open(self.settings), ObjectStore.open(self.settings)
        self.engine = ScriptedEngine()
        stack.callback(self.catalog.close)
        (folder / "looper.json").write_text('{"revision": "r"}')
        self.digest = publish(folder, self.catalog, self.store, DESK, b"one")
        self.key, self.other_key = issue_key(self.catalog, "acme"), issue_key(self.catalog, "acme")
        self.client = self.start()

    def start(self, outage_s: float = 60) -> TestClient:
        """Start a gateway."""
        catalog = self.settings.catalog.model_copy(update={"outage_s": outage_s})
        app = build_gateway(
            self.settings.model_copy(update={"catalog": catalog}), self.catalog, self.store, self.engine
        )
        client = TestClient(app, headers={"authorization": f"Bearer {self.key}"}, raise_server_exceptions=False)
        return self._stack.enter_context(client)

    def post(self, client: TestClient | None = None, model: str = "acme/desk", key: str | None = None) -> Any:
        headers = {"authorization": f"Bearer {key or self.key}"}
        body = {"model": model, "messages": HELLO}
        return (client or self.client).post("/v1/chat/completions", json=body, headers=headers)

    def health(self, client: TestClient | None = None) -> tuple[int, str]:
        response = (client or self.client).get("/healthz")
        return response.status_code, response.json()["status"]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresqlServer]:
    with run_postgresql() as server:
        yield server


@pytest.fixture
def gateway(server: PostgresqlServer, tmp_path: Path) -> Iterator[GatewayOnPostgresql]:
    with ExitStack() as stack:
        yield GatewayOnPostgresql(tmp_path, server, stack)


def test_inference_goes_on_while_the_catalog_hangs(gateway: GatewayOnPostgresql) -> None:
    assert gateway.post().status_code == 200
    assert gateway.health() == (200, "ok")
    with gateway.server.hanging():
        with ThreadPoolExecutor(16) as pool:
            assert {response.status_code for response in pool.map(lambda _: gateway.post(), range(32))} == {200}
        assert gateway.health() == (200, "degraded")
        started_at = time.monotonic()
        assert status_and_code(gateway.post(key=gateway.other_key)) == (503, "store_unavailable")
        assert time.monotonic() - started_at < 1, "no request waits for a catalog that is known to hang"
    wait_until(lambda: gateway.health() == (200, "ok"))
    newer = publish(gateway.folder, gateway.catalog, gateway.store, DESK, b"two")
    assert gateway.post().headers["x-looper-version"] == newer, "nothing remembered is used"


def test_nothing_is_served_while_nobody_knows_what_is_revoked(gateway: GatewayOnPostgresql) -> None:
    client = gateway.start(outage_s=4)
    gateway.engine.pause_s = 0.1
    gateway.engine.script = ["data: {}\n\n"] * 1000
    body = {"model": "acme/desk", "messages": HELLO, "stream": True}
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        assert next(lines) == "data: {}"
        gateway.server.stop()
        rest = [line for line in lines if line]
    assert orjson.loads(rest[-2].removeprefix("data: "))["error"]["code"] == "version_unconfirmed"
    assert len(rest) < 900
    assert gateway.health(client) == (503, "unavailable")
    assert status_and_code(gateway.post(client)) == (503, "store_unavailable")
    gateway.server.start()
    wait_until(lambda: gateway.health(client) == (200, "ok"))


def test_a_killed_catalog_is_used_again_when_it_is_back(gateway: GatewayOnPostgresql) -> None:
    assert gateway.post().status_code == 200
    gateway.server.stop()
    assert gateway.post().status_code == 200
    wait_until(lambda: gateway.health() == (200, "degraded"))
    assert gateway.client.get("/v1/models").status_code == 503
    assert str(gateway.server.port) not in gateway.client.get("/v1/models").text
    gateway.server.start()
    wait_until(lambda: gateway.health() == (200, "ok"))
    assert gateway.post(key=gateway.other_key).status_code == 200


def test_a_failover_that_loses_a_commit_brings_nothing_revoked_back(
    gateway: GatewayOnPostgresql, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = gateway.digest, publish(gateway.folder, gateway.catalog, gateway.store, DESK, b"two")
    gateway.server.stop("fast")
    gateway.server.copy_data(replica := gateway.folder / "replica")
    gateway.server.start()
    wait_until(lambda: gateway.health() == (200, "ok"))
    assert gateway.post(key=gateway.other_key).headers["x-looper-version"] == second
    with monkeypatch.context() as patch:
        move_clock(patch, -90)  # the revoker's clock does not matter
        revocation.revoke_version(gateway.catalog, gateway.store, DESK, second)
        revocation.revoke_key(gateway.catalog, gateway.store, gateway.other_key.split("_")[1])
    assert gateway.post().headers["x-looper-version"] == first
    gateway.server.stop()
    gateway.server.restore_data(replica)  # it lacks the revocations
    gateway.server.start()
    wait_until(lambda: gateway.health() == (200, "ok"))
    for client in (gateway.client, gateway.start()):
        assert status_and_code(gateway.post(client, key=gateway.other_key)) == (401, "invalid_api_key")
        assert status_and_code(gateway.post(client, model=f"acme/desk@{second}")) == (404, "model_not_found")
    # Starting the second gateway has written the revocations back into the catalog.
    assert gateway.post().headers["x-looper-version"] == first
    assert gateway.catalog.get_channels(DESK) == {"prod": first}
