"""Catalog and store write files that nobody else can read, whatever the umask of the program that uses them."""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from looper.platform.catalog import Catalog
from looper.platform.domain.names import InstanceName
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import load_settings
from looper.platform.trajectories.ingest import ingest_paths
from tests.platform.test_api import episodes
from tests.private_files import find_open_files

__all__ = ["episodes"]


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def test_nobody_else_can_read_catalog_and_store(tmp_path: Path, episodes: Path) -> None:
    home = tmp_path / "not" / "there"
    settings = load_settings(home=home)
    with closing(Catalog.open(settings)) as catalog:
        catalog.create_tenant("acme")
        store = ObjectStore.open(settings)
        ingest_paths([episodes], InstanceName("acme", "desk"), catalog=catalog, store=store)
        files = {path.name for path in home.rglob("*") if path.is_file()}
        assert {"catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm"} <= files
        assert any(name.endswith(".parquet") for name in files)
        assert find_open_files(tmp_path / "not") == []


def test_a_catalog_that_others_could_read_is_closed(tmp_path: Path) -> None:
    """Catalogs of earlier releases have the mode that the umask gave them."""
    (tmp_path / "catalog.sqlite").touch(0o644)
    with closing(Catalog.open(load_settings(home=tmp_path))) as catalog:
        catalog.create_tenant("acme")
        assert [path for path in find_open_files(tmp_path) if "catalog.sqlite" in path] == []
