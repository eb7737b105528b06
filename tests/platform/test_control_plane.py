"""The control plane cannot hurt inference or another tenant, and tells nobody what is the operator's."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import BinaryIO

import httpx
import orjson
import pytest
from fastapi import FastAPI

from looper.platform.api import control_plane_router, request_body, request_gate, upload_queue
from looper.platform.api.error_handlers import install_error_handlers
from looper.platform.api.models import MAX_SUBMITTED_INSTANCES
from looper.platform.api.request_boundary import MAX_HEADER_BYTES, MAX_URL_BYTES
from looper.platform.api.request_gate import RequestGate
from looper.platform.catalog import Catalog
from looper.platform.domain.scopes import TENANT_SCOPES
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import ApiSettings, Settings, load_settings
from looper.platform.tenancy import issue_key
from looper.platform.trajectories import uploads
from tests.platform.test_api import EPISODE, serve_control_plane, served

DESK = "/api/v1/instances/desk"


class BlockingCatalog(Catalog):
    """A catalog whose list of instances waits for an event."""

    go_on: threading.Event
    waiting: threading.Semaphore

    def page_instances(self, *arguments: object, **options: object) -> list[object]:  # type: ignore[override]
        self.waiting.release()
        assert self.go_on.wait(30)
        return []


class Server:
    """A control plane, beside a route that runs in the application's default threads as routes of ``/v1`` do."""

    def __init__(self, url: str, catalog: BlockingCatalog) -> None:
        self.url, self.catalog = url, catalog
        self.keys = {tenant: issue_key(catalog, tenant) for tenant in ("acme", "rival")}

    def send(self, method: str, path: str, tenant: str = "acme", **request: object) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.keys[tenant]}", "content-type": "application/json"}
        return httpx.request(method, f"{self.url}{path}", headers=headers, timeout=30, **request)  # type: ignore[arg-type]

    def connect(self, path: str, tenant: str = "acme") -> socket.socket:
        """Open a connection that has sent the head of an upload of 1,000 bytes, and nothing of its body."""
        host, _, port = self.url.removeprefix("http://").partition(":")
        connection = socket.create_connection((host, int(port)), timeout=30)
        head = (
            f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self.keys[tenant]}\r\ncontent-length: 1000\r\n"
        )
        connection.sendall(f"{head}\r\n".encode())
        return connection


@pytest.fixture
def limits() -> ApiSettings:
    return ApiSettings()


@pytest.fixture
def server(tmp_path: Path, limits: ApiSettings) -> Iterator[Server]:
    settings = load_settings(home=tmp_path)
    with closing(BlockingCatalog.open(settings)) as catalog:
        catalog.go_on, catalog.waiting = threading.Event(), threading.Semaphore(0)
        for tenant in ("acme", "rival"):
            catalog.create_tenant(tenant)
        app = FastAPI()
        app.include_router(control_plane_router(settings, catalog, ObjectStore.open(settings), RequestGate(limits)))
        install_error_handlers(app)

        @app.get("/v1/probe")
        def probe() -> str:
            return "ok"

        with served(app) as url:
            yield Server(url, catalog)
            catalog.go_on.set()


def code_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


@pytest.mark.parametrize("limits", [ApiSettings(max_concurrent_requests=50)])
def test_requests_that_wait_for_the_catalog_leave_inference_its_threads(server: Server) -> None:
    with ThreadPoolExecutor(50) as pool:
        waiting = [pool.submit(server.send, "GET", "/api/v1/instances") for _ in range(50)]
        for _ in range(request_gate.NUM_THREADS):
            assert server.catalog.waiting.acquire(timeout=30)
        assert httpx.get(f"{server.url}/v1/probe", timeout=10).json() == "ok"
        assert not server.catalog.waiting.acquire(blocking=False), "no more threads than the control plane has"
        server.catalog.go_on.set()
        assert {future.result().status_code for future in waiting} == {200}


@pytest.mark.parametrize("limits", [ApiSettings(max_concurrent_requests=2)])
def test_a_tenant_has_a_maximum_of_concurrent_requests(server: Server) -> None:
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(server.send, "GET", "/api/v1/instances") for _ in range(2)]
        for _ in range(2):
            assert server.catalog.waiting.acquire(timeout=30)
        refused = server.send("GET", "/api/v1/skills")
        assert (*code_of(refused), refused.headers["retry-after"]) == (429, "rate_limit_exceeded", "1")
        assert server.send("GET", "/api/v1/skills", "rival").status_code == 200
        server.catalog.go_on.set()
        assert {future.result().status_code for future in waiting} == {200}
    assert server.send("GET", "/api/v1/skills").status_code == 200


@pytest.mark.parametrize("limits", [ApiSettings(requests_per_minute=3)])
def test_a_tenant_has_a_maximum_of_requests_per_minute(server: Server) -> None:
    statuses = [server.send("GET", "/api/v1/skills").status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    assert 1 <= int(server.send("GET", "/api/v1/skills").headers["retry-after"]) <= 20
    assert server.send("GET", "/api/v1/skills", "rival").status_code == 200


def read_response(connection: socket.socket) -> bytes:
    """Return all that the server sends until it closes the connection."""
    received = bytearray()
    while part := connection.recv(2**16):
        received += part
    return bytes(received)


@pytest.mark.parametrize("path", ["/api/v1/consolidations", f"{DESK}/trajectories"])
def test_a_body_that_does_not_arrive_is_answered_and_closed(
    server: Server, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_body, "MAX_PAUSE_S", 0.2)
    with server.connect(path) as connection:
        connection.sendall(b"{")
        response = read_response(connection)
    assert response.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in response
    assert b"retry-after: 1" in response
    assert b"request_too_slow" in response


def test_a_body_that_trickles_is_answered_and_closed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time, but the whole takes longer than a body of its size may."""
    monkeypatch.setattr(request_body, "GRACE_S", 0.5)
    with server.connect("/api/v1/consolidations") as connection:
        connection.settimeout(0.05)
        response, started = b"", time.monotonic()
        while not response and time.monotonic() - started < 20:
            connection.sendall(b" ")
            with suppress(TimeoutError):
                response = connection.recv(2**16)
    assert response.startswith(b"HTTP/1.1 408 ")


def test_bodies_in_memory_are_bounded_for_each_tenant(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_body, "MAX_BYTES_PER_TENANT", 1000)
    at_bound = b'{"instances":["desk"]}'.ljust(1000)
    assert code_of(server.send("POST", "/api/v1/consolidations", content=at_bound)) == (404, "not_found")
    refused = server.send("POST", "/api/v1/consolidations", content=at_bound + b" ")
    assert code_of(refused) == (429, "rate_limit_exceeded")
    assert request_body._memory._bytes.total() == 0


def test_uploads_have_places_for_each_tenant_and_for_all(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_queue, "MAX_UPLOADS_PER_TENANT", 1)
    path = f"{DESK}/trajectories"

    def upload_status(tenant: str) -> int:
        return server.send("POST", f"{path}?name=a.jsonl", tenant, content=orjson.dumps(EPISODE)).status_code

    with server.connect(path):
        wait_until(lambda: upload_status("acme") == 429)
        assert upload_status("rival") == 200
        monkeypatch.setattr(upload_queue, "MAX_UPLOADS", 1)
        assert upload_status("rival") == 503
    wait_until(lambda: upload_status("acme") == 200)  # the connection is closed, and its place is free


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_upload_is_read_up_to_its_bound(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    content = orjson.dumps(EPISODE)
    path = f"{DESK}/trajectories?name=a.jsonl"
    monkeypatch.setattr(upload_queue, "MAX_UPLOAD_BYTES", len(content))
    assert server.send("POST", path, content=content).status_code == 200
    assert code_of(server.send("POST", path, content=content + b"\n")) == (413, "request_too_large")
    assert code_of(server.send("POST", path, content=iter([content, b"\n"]))) == (413, "request_too_large")


def test_a_full_disk_is_answered_with_507(server: Server, tmp_path: Path) -> None:
    (tmp_path / "uploads").touch()
    response = server.send("POST", f"{DESK}/trajectories?name=a.jsonl", content=b"{}")
    assert code_of(response) == (507, "store_full")
    assert str(tmp_path) not in response.text


def test_a_disk_that_fills_during_an_upload_is_answered_with_507(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_full_disk(**_: object) -> BinaryIO:
        return Path("/dev/full").open("w+b")

    monkeypatch.setattr(uploads.tempfile, "TemporaryFile", open_full_disk)
    # Less than a buffer: the system refuses it when it is flushed, and again when the file is closed.
    assert code_of(server.send("POST", f"{DESK}/trajectories?name=a.jsonl", content=b"{}")) == (507, "store_full")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/api/v1/consolidations/{'0' * 64}", 404),
        (f"/api/v1/consolidations/{'0' * 65}", 422),
        (f"/api/v1/instances/{'a' * 64}", 400),
        (f"/api/v1/skills?x={'a' * (MAX_URL_BYTES - len('/api/v1/skills') - len('x='))}", 200),
        (f"/api/v1/skills?x={'a' * (MAX_URL_BYTES - len('/api/v1/skills') - len('x=') + 1)}", 414),
        (f"/api/v1/skills?cursor={'a' * 513}", 422),
        ("/api/v1/skills?limit=0", 422),
        ("/api/v1/skills?limit=101", 422),
    ],
)
def test_urls_have_bounds(server: Server, path: str, status: int) -> None:
    assert server.send("GET", path).status_code == status


def test_headers_have_a_bound(server: Server) -> None:
    response = httpx.get(
        f"{server.url}/v1/probe", headers={f"x-{n}": "a" * 4096 for n in range(MAX_HEADER_BYTES // 4096)}
    )
    assert code_of(response) == (431, "invalid_input")


def test_a_request_submits_a_bounded_number_of_instances(server: Server) -> None:
    for count, status in ((MAX_SUBMITTED_INSTANCES, 404), (MAX_SUBMITTED_INSTANCES + 1, 422)):
        names = [f"desk-{n}" for n in range(count)]
        assert server.send("POST", "/api/v1/consolidations", json={"instances": names}).status_code == status


def test_a_mistake_in_a_long_name_gives_a_short_answer(server: Server) -> None:
    response = server.send("POST", "/api/v1/consolidations", json={"instances": ["desk"], "x" * 200_000: 1})
    assert response.status_code == 422
    assert len(response.content) < 2000


ROUTES = [
    ("GET", "/api/v1/instances/a%00b", None),
    ("GET", "/api/v1/instances?cursor=%00", None),
    ("POST", "/api/v1/instances/desk/trajectories?name=a%00.jsonl", None),
    ("GET", "/api/v1/consolidations/a%00b", None),
    ("GET", "/api/v1/consolidations/a%00b/events", None),
    ("POST", "/api/v1/consolidations/a%00b/cancel", None),
    ("POST", "/api/v1/consolidations", {"instances": ["a\0b"]}),
    ("GET", "/api/v1/skills/a%00b", None),
    ("PUT", "/api/v1/skills/desk/channels/prod", {"digest": "a\0b"}),
    ("PUT", "/api/v1/skills/desk/channels/a%00b", {"digest": "ab"}),
    ("DELETE", "/api/v1/skills/desk/channels/a%00b", None),
    ("POST", "/api/v1/skills/desk/channels/a%00b/rollback", None),
    ("POST", "/api/v1/skills/desk/versions/a%00b/revoke", None),
]


def test_a_nul_never_reaches_the_database(catalog_settings: Settings) -> None:
    with closing(Catalog.open(catalog_settings)) as catalog:
        catalog.create_tenant("acme")
        headers = {"authorization": f"Bearer {issue_key(catalog, 'acme', scopes=TENANT_SCOPES)}"}
        with serve_control_plane(catalog_settings, catalog, ObjectStore.open(catalog_settings)) as url:
            for method, path, body in ROUTES:
                response = httpx.request(method, f"{url}{path}", json=body, headers=headers)
                assert response.status_code in (400, 422), (method, path, response.text)


def test_a_catalog_that_is_gone_is_not_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = load_settings(home=tmp_path)
    with closing(Catalog.open(settings)) as catalog:
        catalog.create_tenant("acme")
        headers = {"authorization": f"Bearer {issue_key(catalog, 'acme')}"}
        with serve_control_plane(settings, catalog, ObjectStore.open(settings)) as url:
            with catalog._write_transaction() as sql:
                sql.exec_driver_sql("DROP TABLE channels")
            response = httpx.get(f"{url}/api/v1/skills", headers=headers)
    id = response.headers["x-request-id"]
    assert code_of(response) == (503, "store_unavailable")
    assert id in response.json()["error"]["message"]
    for secret in (str(tmp_path), "sqlite", "channels"):
        assert secret not in response.text
    assert any(id in record.message and "channels" in record.message for record in caplog.records)


def test_every_response_has_an_id_of_its_own(server: Server) -> None:
    responses = [
        server.send("GET", "/api/v1/skills"),
        server.send("GET", "/api/v1/skills/%00"),
        server.send("GET", "/nowhere"),
        httpx.get(f"{server.url}/api/v1/skills"),
        httpx.get(f"{server.url}/v1/probe", headers={"x-request-id": "mine"}),
    ]
    ids = [response.headers["x-request-id"] for response in responses]
    assert len(set(ids)) == len(responses)
    assert all(len(id) == 32 for id in ids)


def test_without_a_key_a_body_that_does_not_come_closes_the_connection(server: Server) -> None:
    server.keys["nobody"] = "looper_no_key"
    with server.connect(f"{DESK}/trajectories", "nobody") as connection:
        response = read_response(connection)
    assert response.startswith(b"HTTP/1.1 401 ")
