"""PostgreSQL hangs, dies, or refuses a value: every call of the catalog ends in time, with one clear error."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from looper.platform.catalog import Catalog
from looper.platform.catalog.engine import MAX_CONNECTIONS
from looper.platform.domain.errors import InvalidInput, NotFound, StoreUnavailable
from looper.platform.domain.names import InstanceName
from looper.platform.settings import Settings, load_settings
from tests.platform.postgresql import PostgresqlServer


@pytest.fixture
def catalog(postgresql_settings: Settings) -> Iterator[Catalog]:
    with closing(Catalog.open(with_short_timeout(postgresql_settings))) as catalog:
        yield catalog


def with_short_timeout(settings: Settings) -> Settings:
    return load_settings(home=settings.home, catalog={"url": settings.catalog_url, "timeout_s": 0.5})


def fail(call: Callable[[], object]) -> StoreUnavailable:
    started_at = time.monotonic()
    with pytest.raises(StoreUnavailable) as raised:
        call()
    assert time.monotonic() - started_at < 10
    return raised.value


def test_no_call_waits_for_a_server_that_hangs(
    postgresql: PostgresqlServer, catalog: Catalog, postgresql_settings: Settings
) -> None:
    tenants = catalog.list_tenants()
    with postgresql.hanging():
        error = fail(catalog.list_tenants)
        assert str(error) == "the catalog does not respond: try again"
        assert str(postgresql.port) in error.detail
        assert "cannot be opened" in fail(lambda: Catalog.open(with_short_timeout(postgresql_settings))).detail
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
    held = [other._read_transaction() for _ in range(MAX_CONNECTIONS)]
    with closing(other):
        for transaction in held:
            transaction.__enter__()
        try:
            assert "QueuePool" in fail(other.list_tenants).detail
        finally:
            for transaction in held:
                transaction.__exit__(None, None, None)


def test_a_value_that_the_database_cannot_store_is_the_callers_mistake(catalog_settings: Settings) -> None:
    with closing(Catalog.open(catalog_settings)) as catalog:
        for id in ("a\0b", "\ud800"):
            with pytest.raises((InvalidInput, NotFound)) as raised:
                catalog.get_consolidation(id)
            assert "127.0.0.1" not in str(raised.value)
