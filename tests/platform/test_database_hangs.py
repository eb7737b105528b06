"""PostgreSQL hangs, dies, or refuses a value: every call of the catalog ends in time, with one clear error."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from looper.platform.catalog import Catalog
from looper.platform.domain.errors import InvalidInput, NotFound, StoreUnavailable
from looper.platform.domain.names import InstanceName
from looper.platform.settings import Settings, load_settings
from tests.platform.postgresql import PostgresqlServer, run_postgresql


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresqlServer]:
    with run_postgresql() as server:
        yield server


@pytest.fixture
def catalog(server: PostgresqlServer, tmp_path: Path) -> Iterator[Catalog]:
    settings = load_settings(home=tmp_path, catalog={"url": server.url, "timeout_s": 0.5})
    with closing(Catalog.open(settings)) as catalog:
        yield catalog


def fail(call: Callable[[], object]) -> StoreUnavailable:
    started_at = time.monotonic()
    with pytest.raises(StoreUnavailable) as raised:
        call()
    assert time.monotonic() - started_at < 10
    return raised.value


def test_no_call_waits_for_a_server_that_hangs(server: PostgresqlServer, catalog: Catalog, tmp_path: Path) -> None:
    tenants = catalog.list_tenants()
    with server.hanging():
        error = fail(catalog.list_tenants)
        assert str(error) == "the catalog does not respond: try again"
        assert str(server.port) in error.detail
        settings = load_settings(home=tmp_path, catalog={"url": server.url, "timeout_s": 0.5})
        assert "cannot be opened" in fail(lambda: Catalog.open(settings)).detail
    assert catalog.list_tenants() == tenants


def test_a_call_that_waits_for_a_lock_ends(catalog: Catalog) -> None:
    instance = InstanceName("locked", "desk")
    catalog.create_tenant("locked")
    catalog.ensure_instance(instance)
    other = catalog.with_timeout(0.2)
    with closing(other), catalog._write_transaction() as sql:
        sql.exec_driver_sql("LOCK TABLE channels")
        assert "timeout" in fail(lambda: other.get_channel(instance, "prod")).detail


def test_a_call_that_gets_no_connection_ends(catalog: Catalog) -> None:
    other = catalog.with_timeout(0.05)
    held = [other._read_transaction() for _ in range(16)]
    with closing(other):
        for transaction in held[:15]:
            transaction.__enter__()
        try:
            assert "QueuePool" in fail(other.list_tenants).detail
        finally:
            for transaction in held[:15]:
                transaction.__exit__(None, None, None)


def test_a_value_that_the_database_cannot_store_is_the_callers_mistake(catalog_settings: Settings) -> None:
    with closing(Catalog.open(catalog_settings)) as catalog:
        for id in ("a\0b", "\ud800"):
            with pytest.raises((InvalidInput, NotFound)) as raised:
                catalog.get_consolidation(id)
            assert "127.0.0.1" not in str(raised.value)
