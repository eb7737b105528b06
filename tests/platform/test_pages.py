"""Lists come in pages with a constant number of queries, however many rows a tenant has."""

import base64
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event, insert

from looper.platform.catalog import Catalog
from looper.platform.catalog import tables as t
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.recipe import Recipe
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings, load_settings
from tests.platform.test_api import VERDICT, Platform, serve_control_plane

START = datetime(2026, 1, 1, tzinfo=UTC)


def fill(catalog: Catalog, tenant: str, instances: int, versions: int = 1) -> None:
    """Write instances with versions, each version with its consolidation, batch and event."""
    names = [f"desk-{n:05}" for n in range(instances)]
    every = [(name, n, k) for n, name in enumerate(names) for k in range(versions)]

    def when(k: int) -> datetime:
        return START + timedelta(seconds=k // 2)  # two at a time, so that a page may end between equals

    def key(n: int, k: int) -> str:
        return f"{n * versions + k:032x}"

    owner = [{"tenant": tenant, "instance": name} for name, _, _ in every]
    with catalog._write_transaction() as sql:
        sql.execute(insert(t.instances), [{"tenant": tenant, "instance": name, "created_at": START} for name in names])
        job = {"state": "published", "base": "b", "recipe": Recipe().model_dump(mode="json"), "batches": ["x"]}
        sql.execute(
            insert(t.consolidations),
            [
                {**row, **job, "id": key(n, k), "created_at": when(k), "updated_at": START}
                for row, (_, n, k) in zip(owner, every, strict=True)
            ],
        )
        version = {"base": "b", "base_revision": "r", "rank": 8, "verdict": VERDICT.model_dump(mode="json")}
        sql.execute(
            insert(t.versions),
            [
                {**row, **version, "digest": key(n, k) * 2, "consolidation": key(n, k), "created_at": when(k)}
                for row, (_, n, k) in zip(owner, every, strict=True)
            ],
        )
        sql.execute(
            insert(t.channels),
            [
                {"tenant": tenant, "instance": name, "name": "prod", "digest": key(n, 0) * 2, "updated_at": START}
                for n, name in enumerate(names)
            ],
        )
        batch = {"source": "s", "trajectories": 3, "created_at": START}
        sql.execute(
            insert(t.batches),
            [{**row, **batch, "id": key(n, k)} for row, (_, n, k) in zip(owner, every, strict=True)],
        )


class QueryCounter:
    """Counts the statements that a catalog executes."""

    def __init__(self, catalog: Catalog) -> None:
        self.count = 0
        event.listen(catalog._engine, "before_cursor_execute", self._on_execute)

    def _on_execute(self, *_: object) -> None:
        self.count += 1


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Platform, QueryCounter]]:
    home = tmp_path_factory.mktemp("many")
    settings = load_settings(home=home)
    with closing(Catalog.open(settings)) as catalog:
        for tenant in ("acme", "rival"):
            catalog.create_tenant(tenant)
        fill(catalog, "acme", 5000)
        with serve_control_plane(settings, catalog, ObjectStore.open(settings)) as url:
            yield Platform(url, catalog, ObjectStore.open(settings)), QueryCounter(catalog)


@pytest.mark.parametrize(("path", "page"), [("skills", 100), ("instances", 1000), ("consolidations", 100)])
def test_a_list_of_5000_comes_in_pages_of_few_queries(
    many: tuple[Platform, QueryCounter], path: str, page: int, record_property: Callable[[str, object], None]
) -> None:
    platform, counter = many
    with platform.client("acme") as client:
        for _ in range(2):  # the first request opens connections
            counter.count, started = 0, time.perf_counter()
            response = client._send("GET", f"/{path}")
            record_property("seconds", time.perf_counter() - started)
        assert len(response.json()) == page
        assert 'rel="next"' in response.headers["link"]
        assert counter.count <= 8, "queries, the key's included"
        if path != "consolidations":
            names = [getattr(row, "model", None) or row.name for row in getattr(client, path)()]  # type: ignore[union-attr]
            assert names == [f"acme/desk-{n:05}" for n in range(5000)]
        else:
            assert len({job.id for job in client.consolidations()}) == 5000


def test_another_tenant_sees_none_of_them(many: tuple[Platform, QueryCounter]) -> None:
    platform, _ = many
    with platform.client("acme") as acme, platform.client("rival") as rival:
        for path in ("skills", "instances", "consolidations"):
            link = acme._send("GET", f"/{path}").links["next"]["url"]
            assert rival._send("GET", f"/{path}{link}").json() == []


@pytest.fixture
def few(catalog_settings: Settings) -> Iterator[Platform]:
    """Two instances with five versions each, once on each database."""
    with closing(Catalog.open(catalog_settings)) as catalog:
        catalog.create_tenant("acme")
        fill(catalog, "acme", 2, versions=5)
        store = ObjectStore.open(catalog_settings)
        with serve_control_plane(catalog_settings, catalog, store) as url:
            yield Platform(url, catalog, store)


def test_pages_of_each_length_give_the_same_list(few: Platform) -> None:
    paths = ["/skills", "/instances", "/consolidations", "/skills/desk-00000/versions"]
    paths += ["/consolidations?instance=desk-00001"]
    with few.client("acme") as client:
        for path in paths:
            whole = client._send("GET", path).json()
            for limit in range(1, len(whole) + 2):
                response = client._send("GET", f"{path}{'&' if '?' in path else '?'}limit={limit}")
                found = response.json()
                while "next" in response.links:
                    assert len(response.json()) == limit
                    response = client._send("GET", str(response.url.join(response.links["next"]["url"])))
                    found += response.json()
                assert found == whole, (path, limit)
        assert [version.created_at for version in client.versions("desk-00000")] == sorted(
            (version.created_at for version in client.versions("desk-00000")), reverse=True
        )
        assert len(list(client.versions("desk-00000"))) == 5
        assert client.skill("desk-00000").version_count == 5


def test_a_skill_in_a_list_has_its_newest_versions(few: Platform) -> None:
    (skill, _) = few.catalog.page_skills("acme", limit=9, max_versions=2)
    newest = few.catalog.list_versions(skill.instance)
    assert (skill.versions, skill.version_count) == (newest[:2], 5)


def test_a_cursor_that_a_client_made_up_is_refused(few: Platform) -> None:
    texts = (b"null", b'"\\u0000"', b"[]", b"9" * 99, b'["0001-01-01T00:00:00+14:00","00"]')
    made_up = ["x", "AAAA", "é", *(base64.b64encode(text).decode() for text in texts)]
    with few.client("acme") as client:
        for path in ("skills", "instances", "consolidations", "skills/desk-00000/versions"):
            for cursor in made_up:
                with pytest.raises(InvalidInput, match="the cursor is not one of this list"):
                    client._send("GET", f"/{path}", params={"cursor": cursor})
