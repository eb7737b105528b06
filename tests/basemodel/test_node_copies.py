"""A base model on other nodes: complete, verified and downloaded once, or a clear error."""

import hashlib
import json
import logging
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from looper.basemodel.node_copies import BaseModelSource, fetch_base, publish_base
from looper.platform.domain.errors import StoreUnavailable
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import load_settings

FILES = {"config.json": b"{}", "model.safetensors": b"weights" * 1000, "tokenizer.json": b"[]", "looper.json": b"{}"}


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore.open(load_settings(home=tmp_path / "home"))


@pytest.fixture
def source(store: ObjectStore, tmp_path: Path) -> BaseModelSource:
    """A base model that the first node has put into the object store. One of its files is a link, as in the cache."""
    folder = tmp_path / "node0" / "prepared"
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    (folder / "model.safetensors").rename(tmp_path / "weights")
    (folder / "model.safetensors").symlink_to(tmp_path / "weights")
    return publish_base(store, folder)


def use_cache(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Pretend to be on a node whose cache is in ``folder``; return its folder of base models."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "looper" / "models"


def digest_of(source: BaseModelSource) -> str:
    assert source.stored is not None
    return source.stored.digest


def test_another_node_gets_the_same_files(
    source: BaseModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = use_cache(monkeypatch, tmp_path / "node1")
    folder = source.on_this_node()
    assert folder == cache / digest_of(source)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == FILES
    shutil.rmtree(tmp_path / "home")
    assert source.on_this_node() == folder, "it is here already"


def test_a_node_that_needs_no_weights_downloads_none(
    source: BaseModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_cache(monkeypatch, tmp_path / "node1")
    small = source.on_this_node(weights=False)
    assert {file.name for file in small.iterdir()} == FILES.keys() - {"model.safetensors"}
    whole = source.on_this_node()
    assert source.on_this_node(weights=False) == whole != small


def test_the_node_that_published_it_downloads_nothing(source: BaseModelSource, store: ObjectStore) -> None:
    shutil.rmtree(Path(store.url))
    copy = fetch_base(store, digest_of(source), source.folder.parent)
    assert (copy / "looper.json").samefile(source.folder / "looper.json")


def test_without_other_nodes_nothing_is_stored(tmp_path: Path) -> None:
    assert BaseModelSource(tmp_path).on_this_node() == tmp_path


def test_processes_of_one_node_download_it_once(
    source: BaseModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_cache(monkeypatch, tmp_path / "node1")
    downloads: list[str] = []
    lock, get_file = threading.Lock(), ObjectStore.get_file

    def count(self: ObjectStore, key: str, path: Path) -> None:
        with lock:
            downloads.append(key.rpartition("/")[2])
        get_file(self, key, path)

    monkeypatch.setattr(ObjectStore, "get_file", count)
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: source.on_this_node(), range(4)))
    assert len(folders) == 1
    assert sorted(downloads) == sorted(FILES)


@pytest.mark.parametrize("name", ["files.json", "model.safetensors"])
def test_a_damaged_file_is_refused_by_name(
    name: str, source: BaseModelSource, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = use_cache(monkeypatch, tmp_path / "node1")
    Path(store.url, "bases", digest_of(source), name).write_bytes(b"other")
    with pytest.raises(StoreUnavailable) as refused:
        source.on_this_node()
    assert f"{name} in object store {store.url} is damaged: delete the folder bases/" in refused.value.detail
    assert not (cache / digest_of(source)).exists()


def test_names_of_files_never_become_paths(
    source: BaseModelSource, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_cache(monkeypatch, tmp_path / "node1")
    content = json.dumps([{"name": "../evil", "bytes": 1, "sha256": "0" * 64}]).encode()
    digest = hashlib.sha256(content).hexdigest()
    store.put(f"bases/{digest}/files.json", content)
    with pytest.raises(ValueError, match="name"):
        fetch_base(store, digest, tmp_path / "cache")


def test_a_full_disk_and_a_store_without_the_base_model_are_named(
    source: BaseModelSource, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreUnavailable) as missing:
        fetch_base(store, "0" * 64, tmp_path / "cache")
    assert "is it the same one on every node?" in missing.value.detail
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore[attr-defined]
    with pytest.raises(StoreUnavailable) as full:
        fetch_base(store, digest_of(source), tmp_path / "cache")
    assert " has 0.0 GB free in " in full.value.detail
    assert "set XDG_CACHE_HOME to another disk on that node" in full.value.detail


def test_progress_is_logged(source: BaseModelSource, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "looper"):
        assert source.stored is not None
        fetch_base(source.stored.store, source.stored.digest, tmp_path / "cache")
    assert any("base model" in record.message and " of 0.0 GB" in record.message for record in caplog.records)
