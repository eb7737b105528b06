"""Uploads in parts go on after any failure, leave nothing behind, and are bounded."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from sqlalchemy import update

from looper.platform.api import part_uploads, upload_queue
from looper.platform.api.part_uploads import sweep_uploads
from looper.platform.catalog import Catalog, uploads
from looper.platform.catalog import tables as t
from looper.platform.client import Client
from looper.platform.client import uploads as client_uploads
from looper.platform.domain.errors import InvalidInput, NotFound, RateLimited, StoreUnavailable, TooLarge
from looper.platform.domain.names import InstanceName
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.settings import Settings, load_settings
from looper.platform.tenancy import issue_key
from tests.platform.postgresql import free_port
from tests.platform.test_api import EPISODE, Platform, platform, serve_control_plane

__all__ = ["platform"]

DESK = InstanceName("acme", "desk")
PART = 2048


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_uploads, "PART_BYTES", PART)
    monkeypatch.setattr(client_uploads, "PART_BYTES", PART)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of several parts, the last one shorter."""
    file = tmp_path / "monday.jsonl"
    file.write_bytes(b"".join(orjson.dumps(EPISODE | {"task_id": f"t{number}"}) + b"\n" for number in range(70)))
    assert file.stat().st_size % PART
    return file


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


def assert_ingested_once(catalog: Catalog, store: ObjectStore, report: Any) -> None:
    (one,) = report.files
    assert (one.path, one.kept, one.rejected) == ("monday.jsonl", 70, 0)
    assert [batch.trajectories for batch in catalog.list_batches(DESK)] == [70]
    assert len(store.list("trajectories")) == 1
    assert store.list(keys.UPLOADS) == []


def announce(file: Path, **changed: Any) -> dict[str, Any]:
    content = file.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    return {"name": file.name, "format": "auto", "sha256": sha256, "size": len(content)} | changed


def send_part(client: Client, id: str, number: int, content: bytes, sha256: str | None = None) -> None:
    params = {"sha256": sha256 or hashlib.sha256(content).hexdigest()}
    client._send("PUT", f"/instances/desk/uploads/{id}/parts/{number}", params=params, content=content)


def begin(client: Client, file: Path, **changed: Any) -> dict[str, Any]:
    response = client._send("POST", "/instances/desk/uploads", json=announce(file, **changed))
    return dict(response.json())


def send_all(client: Client, file: Path, **changed: Any) -> str:
    upload, content = begin(client, file, **changed), file.read_bytes()
    for number in range(upload["parts"]):
        send_part(client, upload["id"], number, content[number * PART : (number + 1) * PART])
    return str(upload["id"])


def end(client: Client, id: str, **body: Any) -> Any:
    return client._send("POST", f"/instances/desk/uploads/{id}/end", json=body).json()


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
        for end in (source, sink):
            end.close()

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


def test_parts_are_private(platform: Platform, tmp_path: Path, file: Path) -> None:
    with platform.client("acme") as client, platform.client("rival") as rival:
        upload = begin(client, file)
        send_part(client, upload["id"], 0, file.read_bytes()[:PART])
        (part,) = platform.store.list(keys.UPLOADS)
        assert (tmp_path / "store" / part).stat().st_mode & 0o077 == 0
        for attempt in (
            lambda: send_part(rival, upload["id"], 0, file.read_bytes()[:PART]),
            lambda: end(rival, upload["id"]),
            lambda: end(client.acting_for("acme"), "0" * 32),
        ):
            with pytest.raises(NotFound, match="does not exist: it ended or expired, begin again"):
                attempt()
        assert begin(rival, file)["arrived"] == []


def test_what_is_not_the_part_is_refused(platform: Platform, file: Path) -> None:
    content = file.read_bytes()
    with platform.client("acme") as client:
        upload = begin(client, file)
        id, count = upload["id"], upload["parts"]
        with pytest.raises(InvalidInput, match=r"part 0 of upload .* arrived damaged"):
            send_part(client, id, 0, content[: PART - 1])
        with pytest.raises(InvalidInput, match="arrived damaged"):
            send_part(client, id, 0, content[:PART], "0" * 64)
        with pytest.raises(TooLarge, match=f"part 0 of upload {id} has {PART} bytes, not more"):
            send_part(client, id, 0, content[: PART + 1])
        with pytest.raises(InvalidInput, match=f"there is no part {count}"):
            send_part(client, id, count, content[:PART])
        with pytest.raises(InvalidInput, match=r"part 0 of upload .* has not arrived"):
            end(client, id)
        assert platform.store.list(keys.UPLOADS) == []
        assert platform.catalog.list_instances("acme") == []
        id = send_all(client, file, sha256="0" * 64)
        with pytest.raises(InvalidInput, match="is not the file that was announced"):
            end(client, id)
        assert platform.store.list(keys.UPLOADS) == [], "it is discarded"
        with pytest.raises(NotFound):
            end(client, id)


def test_files_are_refused_before_they_are_sent(platform: Platform, file: Path) -> None:
    with platform.client("acme") as client:
        with pytest.raises(InvalidInput, match=r"file 'notes.txt' has no known format"):
            begin(client, file, name="notes.txt")
        with pytest.raises(TooLarge, match="has more than 256 MiB: split it into several files"):
            begin(client, file, size=upload_queue.MAX_UPLOAD_BYTES + 1)
        assert begin(client, file, size=upload_queue.MAX_UPLOAD_BYTES)["parts"] > 1
        with pytest.raises(InvalidInput, match="size: Input should be greater than or equal to 1"):
            begin(client, file, size=0)


def test_a_tenant_has_a_maximum_of_unfinished_uploads(
    platform: Platform, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "MAX_UPLOADS_PER_TENANT", 2)
    key = issue_key(platform.catalog, "acme")
    with Client(platform.url, key, max_retries=0) as client, platform.client("rival") as rival:
        first = send_all(client, file, format="openai_chat")
        begin(client, file, format="atif")
        begin(client, file, format="atif")  # the same one
        with pytest.raises(RateLimited, match="tenant acme has 2 unfinished uploads already"):
            begin(client, file)
        begin(rival, file)
        assert end(client, first)["files"][0]["kept"] == 70
        begin(client, file)


def test_what_is_left_behind_is_swept(platform: Platform, file: Path) -> None:
    catalog, store = platform.catalog, platform.store
    with platform.client("acme") as client:
        old, new = begin(client, file, format="atif")["id"], begin(client, file)["id"]
        for id in (old, new):
            send_part(client, id, 0, file.read_bytes()[:PART])
        store.put(keys.upload_part("acme", "f" * 32, 0), b"of a gateway that was killed")
        with catalog._write_transaction() as sql:
            expired = catalog.now() - timedelta(seconds=1)
            sql.execute(update(t.uploads).where(t.uploads.c.id == old).values(expires_at=expired))
        with pytest.raises(NotFound):
            send_part(client, old, 1, file.read_bytes()[PART : 2 * PART])
        sweep_uploads(catalog, store)
        assert store.list(keys.UPLOADS) == [keys.upload_part("acme", new, 0)]
        assert catalog.list_upload_ids() == {new}
        assert begin(client, file, format="atif")["arrived"] == []


def test_a_part_that_arrives_after_the_end_leaves_nothing(
    platform: Platform, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The upload ends after the gateway has looked it up, and before the part is in the object store."""
    with platform.client("acme") as client:
        id = begin(client, file)["id"]
        put = ObjectStore.put

        def end_first(store: ObjectStore, key: str, content: bytes) -> None:
            platform.catalog.delete_upload(id)
            put(store, key, content)

        monkeypatch.setattr(ObjectStore, "put", end_first)
        with pytest.raises(NotFound, match="it ended or expired"):
            send_part(client, id, 0, file.read_bytes()[:PART])
    assert platform.store.list(keys.UPLOADS) == []


def test_a_gateway_that_dies_after_reading_is_asked_again(
    platform: Platform, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch is there, and neither the report was written nor the parts deleted."""
    with platform.client("acme") as client:
        id = send_all(client, file)
        with monkeypatch.context() as patch:
            patch.setattr(Catalog, "finish_upload", fail)
            with pytest.raises(StoreUnavailable, match="killed"):
                end(client, id)
        assert len(platform.catalog.list_batches(DESK)) == 1
        report = end(client, id)
    assert report["files"][0]["kept"] == 70
    assert len(platform.catalog.list_batches(DESK)) == 1
    assert platform.store.list(keys.UPLOADS) == []


def fail(*_: object) -> None:
    raise StoreUnavailable("killed")


def test_companions_belong_to_the_file(platform: Platform, tmp_path: Path) -> None:
    """As on the machine itself: the report beside a trajectory of SWE-agent says whether the task was resolved."""
    file = tmp_path / "fix.traj"
    step = {"thought": "done", "action": "submit", "observation": "", "response": "done"}
    history = [{"role": "user", "content": "Fix it"}, {"role": "assistant", "content": "done", **step}]
    info = {"exit_status": "submitted"}
    file.write_bytes(orjson.dumps({"environment": "swe", "trajectory": [step], "history": history, "info": info}))
    with platform.client("acme") as client:
        report = client.ingest("desk", file, companions={".report.json": '{"resolved": true}'})
        assert report.files[0].format == "swe_agent"
        with pytest.raises(InvalidInput, match="companions: Dictionary should have at most 4 items"):
            client.ingest("desk", file, companions={f".{number}": "" for number in range(5)})
