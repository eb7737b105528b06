"""Sends a file in parts, as the client does, and by single requests. Parts are small, so that a file has many."""

import hashlib
from pathlib import Path
from typing import Any

import orjson
import pytest

from looper.platform.api import part_uploads
from looper.platform.catalog import Catalog
from looper.platform.client import Client
from looper.platform.client import uploads as client_uploads
from looper.platform.domain.names import InstanceName
from looper.platform.objectstore import ObjectStore, keys
from tests.platform.test_api import EPISODE

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
