"""Uploads in parts go on after any failure, and are ingested once."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from looper.platform.catalog import Catalog
from looper.platform.client import Client
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.settings import Settings, load_settings
from looper.platform.tenancy import issue_key
from tests.platform.postgresql import free_port
from tests.platform.test_api import Platform, platform, serve_control_plane
from tests.platform.uploads_in_parts import DESK, PART, assert_ingested_once, begin, end, file, send_part, small_parts

__all__ = ["file", "platform", "small_parts"]


class CountedParts:
    """Counts the parts that a client sends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[str] = []
        request = httpx.Client.request

        def count(client: httpx.Client, method: str, url: str, **options: Any) -> httpx.Response:
            response = request(client, method, url, **options)
            if method == "PUT" and response.is_success:
                self.sent.append(url.rpartition("/")[2])
            return response

        monkeypatch.setattr(httpx.Client, "request", count)


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> CountedParts:
    return CountedParts(monkeypatch)


def test_a_large_file_is_sent_in_parts_and_is_as_one_sent_whole(
    platform: Platform, file: Path, parts: CountedParts
) -> None:
    with platform.client("acme") as client:
        shares: list[float] = []
        report = client.ingest("desk", file, on_progress=shares.append)
        assert_ingested_once(platform.catalog, platform.store, report)
        assert len(parts.sent) == -(-file.stat().st_size // PART) > 2
        assert shares == sorted(shares)
        assert shares[-1] == 1.0
        assert client.ingest("desk", file) == report, "again changes nothing"
        assert_ingested_once(platform.catalog, platform.store, report)


def test_a_client_that_was_killed_goes_on_where_it_stopped(platform: Platform, file: Path, parts: CountedParts) -> None:
    def die(share: float) -> None:
        if share > 0.4:
            raise KeyboardInterrupt

    with platform.client("acme") as client, pytest.raises(KeyboardInterrupt):
        client.ingest("desk", file, on_progress=die)
    assert platform.catalog.list_instances("acme") == [], "nothing is visible yet"
    before = list(parts.sent)
    assert before
    with platform.client("acme") as client:
        assert_ingested_once(platform.catalog, platform.store, client.ingest("desk", file))
    assert len(parts.sent) == len(set(parts.sent)) > len(before)


@contextmanager
def cutting_proxy(url: str, after_bytes: int, times: int) -> Iterator[str]:
    """Pass connections on to a server, and cut the first ones in the middle of what the client sends."""
    target = (httpx.URL(url).host, httpx.URL(url).port)
    left, server = [times], socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket, limit: int | None) -> None:
        passed = 0
        try:
            while data := source.recv(512):
                passed += len(data)
                if limit is not None and passed > limit:
                    break
                sink.sendall(data)
        except OSError:
            pass
        for each in (source, sink):
            each.close()

    def accept() -> None:
        while True:
            try:
                incoming, _ = server.accept()
            except OSError:
                return
            left[0] -= 1
            limit = after_bytes if left[0] >= 0 else None
            outgoing = socket.create_connection(target)
            threading.Thread(target=pump, args=(incoming, outgoing, limit), daemon=True).start()
            threading.Thread(target=pump, args=(outgoing, incoming, None), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}"
    server.close()


def test_a_connection_that_breaks_in_the_middle_costs_one_part(
    platform: Platform, file: Path, parts: CountedParts
) -> None:
    key = issue_key(platform.catalog, "acme")
    with cutting_proxy(platform.url, 2 * PART, 3) as url, Client(url, key) as client:
        assert_ingested_once(platform.catalog, platform.store, client.ingest("desk", file))
    assert len(parts.sent) == len(set(parts.sent))


SERVER = """
import sys
from pathlib import Path
import uvicorn
from fastapi import FastAPI
from looper.platform.api import control_plane_router, part_uploads
from looper.platform.api.error_handlers import install_error_handlers
from looper.platform.api.request_gate import RequestGate
from looper.platform.catalog import Catalog
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import load_settings
home, port, part_uploads.PART_BYTES = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
settings, app = load_settings(home=home), FastAPI()
app.include_router(
    control_plane_router(settings, Catalog.open(settings), ObjectStore.open(settings), RequestGate(settings.api))
)
install_error_handlers(app)
uvicorn.run(app, port=port, log_level="error")
"""


def test_a_gateway_that_is_killed_in_the_middle_loses_nothing(tmp_path: Path, file: Path, parts: CountedParts) -> None:
    settings, port = load_settings(home=tmp_path / "home"), free_port()
    with closing(Catalog.open(settings)) as catalog:
        catalog.create_tenant("acme")
        key, store = issue_key(catalog, "acme"), ObjectStore.open(settings)
        command = [sys.executable, "-c", SERVER, str(settings.home), str(port), str(PART)]
        gateways = [subprocess.Popen(command)]
        wait_until_it_answers(port)

        def kill_once(share: float) -> None:
            if share > 0.4 and len(gateways) == 1:
                os.kill(gateways[0].pid, signal.SIGKILL)
                gateways[0].wait()
                gateways.append(subprocess.Popen(command))
                wait_until_it_answers(port)

        try:
            with Client(f"http://127.0.0.1:{port}", key) as client:
                report = client.ingest("desk", file, on_progress=kill_once)
        finally:
            for gateway in gateways:
                gateway.kill()
                gateway.wait()
        assert len(gateways) == 2
        assert_ingested_once(catalog, store, report)
        assert len(parts.sent) == len(set(parts.sent))


def wait_until_it_answers(port: int) -> None:
    while True:
        try:
            httpx.get(f"http://127.0.0.1:{port}/")
        except httpx.TransportError:
            threading.Event().wait(0.1)
        else:
            return


def test_any_gateway_takes_the_next_part(
    s3_settings: Settings, postgresql_settings: Settings, tmp_path: Path, file: Path
) -> None:
    """Two gateways share a database and a bucket, and no folder."""
    shared = {"catalog": postgresql_settings.catalog, "store": s3_settings.store}
    one, two = (load_settings(home=tmp_path / name, **shared) for name in ("one", "two"))
    store = ObjectStore.open(one)
    with closing(Catalog.open(one)) as catalog:
        catalog.create_tenant("acme")
        key, content = issue_key(catalog, "acme"), file.read_bytes()
        with (
            serve_control_plane(one, catalog, store) as a,
            serve_control_plane(two, catalog, store) as b,
            Client(a, key) as first,
            Client(b, key) as second,
        ):
            upload = begin(first, file)
            for number in range(upload["parts"]):
                client = (first, second)[number % 2]
                send_part(client, upload["id"], number, content[number * PART : (number + 1) * PART])
            assert begin(second, file)["arrived"] == list(range(upload["parts"]))
            reports = [end(client, upload["id"]) for client in (second, first)]
        assert reports[0] == reports[1], "a client that lost the response asks another gateway"
        assert [batch.trajectories for batch in catalog.list_batches(DESK)] == [70]
        assert store.list(keys.UPLOADS) == []
