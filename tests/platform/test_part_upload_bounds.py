"""Uploads in parts are private and bounded, and leave nothing behind."""

from datetime import timedelta
from pathlib import Path

import orjson
import pytest
from sqlalchemy import update

from looper.platform.api import upload_queue
from looper.platform.api.part_uploads import sweep_uploads
from looper.platform.catalog import Catalog, uploads
from looper.platform.catalog import tables as t
from looper.platform.client import Client
from looper.platform.domain.errors import InvalidInput, NotFound, RateLimited, StoreUnavailable, TooLarge
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.tenancy import issue_key
from tests.platform.test_api import Platform, platform
from tests.platform.uploads_in_parts import DESK, PART, begin, end, file, send_all, send_part, small_parts

__all__ = ["file", "platform", "small_parts"]


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
