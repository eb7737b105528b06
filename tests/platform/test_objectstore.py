"""The object store, in a folder and on S3: reading, writing and failures."""

import errno
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from fsspec.implementations.memory import MemoryFileSystem
from s3fs.errors import translate_boto_error

from looper.platform.domain.errors import NotFound, StoreFull, StoreUnavailable
from looper.platform.objectstore import ObjectStore
from looper.platform.objectstore.store import PARTIAL_LIFETIME_S
from looper.platform.settings import Settings, load_settings


def test_put_get_list_and_exists(store_settings: Settings) -> None:
    store = ObjectStore.open(store_settings)
    store.put("a/b/one", b"1")
    store.put("a/two", b"2")
    assert store.get("a/b/one") == b"1"
    assert store.list("a") == ["a/b/one", "a/two"]
    assert store.list("nothing/here") == []
    assert store.exists("a/two")
    assert not store.exists("a/three")


def test_folders_are_listed_without_their_objects(store_settings: Settings) -> None:
    store = ObjectStore.open(store_settings)
    for key in ("a/b/one", "a/b/c/two", "a/d/three", "a/four"):
        store.put(key, b"")
    assert store.list_folders("a") == ["b", "d"]
    assert store.list_folders("a/d") == []
    assert store.list_folders("nothing/here") == []


def test_get_all_returns_all_objects_or_fails(store_settings: Settings) -> None:
    store = ObjectStore.open(store_settings)
    store.put("a/one", b"123")
    store.put("a/two", b"45")
    assert store.get_all(["a/two", "a/one"]) == [b"45", b"123"]
    assert store.get_all(["a/two", "a/one"], 2) == [b"45", b"12"]
    with pytest.raises(NotFound, match="object a is not in the object store"):
        store.get_all(["a/one", "a/three"])


def test_files_of_any_size_are_written_and_read(store_settings: Settings, tmp_path: Path) -> None:
    store, content = ObjectStore.open(store_settings), os.urandom(3 * 2**20)
    (tmp_path / "file").write_bytes(content)
    store.put_file("bases/weights", tmp_path / "file")
    (tmp_path / "file").write_bytes(b"another")
    store.put_file("bases/weights", tmp_path / "file")
    store.get_file("bases/weights", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content, "the first one is kept"
    assert store.list("bases") == ["bases/weights"]
    with pytest.raises(NotFound, match="object bases/none is not in the object store"):
        store.get_file("bases/none", tmp_path / "copy")


def test_put_does_not_overwrite(store_settings: Settings) -> None:
    store = ObjectStore.open(store_settings)
    store.put("key", b"first")
    store.put("key", b"second")
    assert store.get("key") == b"first"


def test_a_missing_object_raises_not_found(store_settings: Settings) -> None:
    with pytest.raises(NotFound, match="object no/such is not in the object store"):
        ObjectStore.open(store_settings).get("no/such")


def test_delete_removes_a_folder_and_may_be_repeated(store_settings: Settings) -> None:
    store = ObjectStore.open(store_settings)
    store.put("checkpoints/1/x", b"x")
    store.put("checkpoints/2/x", b"x")
    store.delete("checkpoints/1")
    store.delete("checkpoints/1")
    assert store.list("checkpoints") == ["checkpoints/2/x"]


def test_two_clients_see_each_others_writes(store_settings: Settings) -> None:
    one, two = ObjectStore.open(store_settings), ObjectStore.open(store_settings)
    assert one.list("a") == []
    two.put("a/x", b"x")
    assert one.list("a") == ["a/x"]


class FullDisk(MemoryFileSystem):
    """A file system without free space."""

    protocol = "fulldisk"

    def __init__(self, error: OSError) -> None:
        super().__init__(global_store=False, skip_instance_cache=True)
        self.error = error

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: object) -> None:
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        # Responses of MinIO and of Ceph, as s3fs raises them.
        translate_boto_error(ClientError({"Error": {"Code": "XMinioStorageFull"}}, "PutObject")),
        translate_boto_error(ClientError({"Error": {"Code": "QuotaExceeded"}}, "PutObject")),
    ],
)
def test_a_full_store_raises_one_clear_error_and_keeps_no_partial_object(error: OSError) -> None:
    store = ObjectStore("fulldisk://", FullDisk(error), "root")
    with pytest.raises(StoreFull, match="the object store is full: adapters/x was not written") as raised:
        store.put("adapters/x", b"x" * 100)
    assert re.search(r"fulldisk:// is full: adapters/x was not written .*; free some space", raised.value.detail)
    assert "fulldisk" not in str(raised.value)
    assert not store.exists("adapters/x")


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    """A file size limit of the process simulates a full disk: the kernel refuses the rest of the write."""
    import resource

    store = ObjectStore.open(load_settings(home=tmp_path))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(StoreUnavailable) as raised:
            store.put("big", b"x" * 1_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large" in raised.value.detail
    assert str(tmp_path) not in str(raised.value)
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


def test_an_object_is_on_the_disk_before_put_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut takes what was not synchronized: the content, the new name, and the names of new folders."""
    done: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(file: int) -> None:
        done.append(("sync", Path(f"/proc/self/fd/{file}").readlink().name))
        fsync(file)

    def record_replace(source: Path, target: Path) -> None:
        done.append(("rename", Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    store = ObjectStore.open(load_settings(home=tmp_path))
    store.put("adapters/acme/weights", b"x")
    (first, content), *rest = done
    assert first == "sync"
    assert content.endswith(".partial")
    assert rest == [("rename", "weights"), ("sync", "acme"), ("sync", "adapters"), ("sync", "store")]
    done.clear()
    store.put("adapters/acme/weights", b"x")  # after a process that was killed between the rename and the rest
    assert done == [("sync", "acme"), ("sync", "adapters"), ("sync", "store")]


def test_what_killed_writers_left_is_swept_after_a_day(tmp_path: Path) -> None:
    store = ObjectStore.open(load_settings(home=tmp_path))
    store.put("a/b/object", b"x")
    old, young = (tmp_path / "store" / "a" / "b" / f"{name}.partial" for name in ("old", "young"))
    now = time.time()
    for path, age_s in ((old, PARTIAL_LIFETIME_S + 1), (young, PARTIAL_LIFETIME_S - 60)):
        path.write_bytes(b"half")
        os.utime(path, (now - age_s, now - age_s))
    store.sweep_partials()
    assert not old.exists()
    assert young.exists()
    assert store.get("a/b/object") == b"x"


@contextmanager
def silent_server() -> Iterator[str]:
    """A server that accepts connections and never responds."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_timeout_raises_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with silent_server() as endpoint:
        settings = load_settings(
            home=tmp_path,
            store={"url": "s3://bucket/x", "endpoint_url": endpoint, "timeout_s": 0.3, "max_retries": 0},
        )
        start = time.monotonic()
        with pytest.raises(StoreUnavailable, match="the object store failed on key") as raised:
            ObjectStore.open(settings).get("key")
        assert re.search(r"object store s3://bucket/x failed on key: .*[Tt]ime", raised.value.detail)
        assert time.monotonic() - start < 20
