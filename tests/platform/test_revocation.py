"""Revocations outlive the catalog: an older one learns them from the object store."""

import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from looper.platform import adapters, revocation
from looper.platform.catalog import Catalog, Revocation
from looper.platform.domain.errors import InvalidInput, NotFound, StoreUnavailable, Unauthorized
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings, load_settings
from looper.platform.tenancy import authenticate, issue_key
from tests.platform.postgresql import find_programs
from tests.platform.test_adapters import FILES
from tests.platform.test_skills import DESK, publish_version


@pytest.fixture
def catalog(catalog_settings: Settings) -> Iterator[Catalog]:
    with closing(Catalog.open(catalog_settings)) as catalog:
        catalog.create_tenant("acme")
        yield catalog


def test_a_catalog_that_does_not_know_learns_the_revocations(catalog: Catalog, catalog_settings: Settings) -> None:
    store = ObjectStore.open(catalog_settings)
    first, second = publish_version(catalog, "1" * 64), publish_version(catalog, adapters.publish(store, "acme", FILES))
    key = issue_key(catalog, "acme")
    id = key.split("_")[1]
    # As after a restart with an older catalog: the markers exist, and the catalog has no revocation.
    store.put(f"revoked/version/{second}", b"")
    store.put(f"revoked/key/{id}", b"")
    store.put("revoked/key/unknown", b"")
    store.put(f"revoked/version/{'9' * 64}", b"")
    with pytest.raises(NotFound, match="was revoked"):
        adapters.promote(catalog, store, DESK, "canary", second)
    with pytest.raises(InvalidInput, match="was revoked and is not published again"):
        adapters.publish(store, "acme", FILES)
    for _ in range(2):
        revocation.reconcile(catalog, store, revocation.list_markers(store))
        assert catalog.get_channels(DESK) == {"prod": first}
        assert catalog.list_all_revocations() == {Revocation("version", second), Revocation("key", id)}
    with pytest.raises(Unauthorized):
        authenticate(catalog, key)


def test_revoking_marks_first_and_only_ones_own(catalog: Catalog, catalog_settings: Settings) -> None:
    store = ObjectStore.open(catalog_settings)
    first = publish_version(catalog, "1" * 64)
    catalog.create_tenant("other")
    other = DESK._replace(tenant="other")
    catalog.ensure_instance(other)
    with pytest.raises(NotFound):
        revocation.revoke_version(catalog, store, other, first)
    with pytest.raises(NotFound):
        revocation.revoke_key(catalog, store, "none")
    assert revocation.list_markers(store) == set()
    assert revocation.revoke_version(catalog, store, DESK, first) == {"prod": None}
    assert revocation.list_markers(store) == {Revocation("version", first)}


def test_a_revocation_does_not_wait_for_the_store(
    catalog: Catalog, catalog_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StoreUnavailable("down")

    store = ObjectStore.open(catalog_settings)
    id = issue_key(catalog, "acme").split("_")[1]
    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "put", fail)
        revocation.revoke_key(catalog, store, id)
    assert catalog.get_key(id).revoked_at is not None
    revocation.reconcile(catalog, store, revocation.list_markers(store))
    assert revocation.list_markers(store) == {Revocation("key", id)}


@contextmanager
def backup(settings: Settings, folder: Path) -> Iterator[Settings]:
    """Back the catalog up as the guide says, and yield settings of a catalog that is restored from the backup."""
    url = settings.catalog_url
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as sql:
            sql.execute("VACUUM INTO ?", [str(folder / "backup.sqlite")])
        yield load_settings(home=folder / "home", catalog={"url": f"sqlite:///{folder}/backup.sqlite"})
        return
    import psycopg

    programs, restored = find_programs(), url.replace("/looper_", "/restored_")
    subprocess.run([programs / "pg_dump", "-Fc", "-f", folder / "backup", url], check=True)
    with psycopg.connect(url, autocommit=True) as sql:
        sql.execute(f"CREATE DATABASE {restored.rpartition('/')[2]}".encode())
    subprocess.run([programs / "pg_restore", "-d", restored, folder / "backup"], check=True)
    yield load_settings(home=folder / "home", catalog={"url": restored})


def test_a_backup_of_catalog_and_store_is_restored_together(catalog_settings: Settings, tmp_path: Path) -> None:
    """As docs/guides/back-up-and-restore.md says: the catalog first, then the store, which so has what it names."""
    store = ObjectStore.open(catalog_settings)
    with closing(Catalog.open(catalog_settings)) as catalog:
        catalog.create_tenant("acme")
        kept = publish_version(catalog, adapters.publish(store, "acme", FILES))
        key = issue_key(catalog, "acme")
        with backup(catalog_settings, tmp_path) as restored_settings:
            later = publish_version(catalog, "2" * 64)  # between the two halves of the backup
            shutil.copytree(catalog_settings.home / "store", restored_settings.home / "store")
        # After the backup. The old store still exists, so its markers are added to the restored one.
        revocation.revoke_key(catalog, store, key.split("_")[1])
        shutil.copytree(catalog_settings.home / "store", restored_settings.home / "store", dirs_exist_ok=True)
    store = ObjectStore.open(restored_settings)
    with closing(Catalog.open(restored_settings)) as restored:
        assert authenticate(restored, key).tenant == "acme"
        revocation.reconcile(restored, store, revocation.list_markers(store))
        with pytest.raises(Unauthorized):
            authenticate(restored, key)
        assert restored.get_channels(DESK) == {"prod": kept}
        assert adapters.fetch(store, "acme", kept).digest == kept
        with pytest.raises(NotFound):
            restored.get_version(later)
        assert publish_version(restored, later) == later
        assert restored.get_channels(DESK) == {"prod": later}
