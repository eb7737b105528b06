import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from looper.platform.catalog import Catalog
from looper.platform.catalog.engine import connect
from looper.platform.catalog.tables import metadata
from looper.platform.domain.consolidation import Progress, Recipe, Scores, State, Verdict
from looper.platform.domain.errors import Conflict, InvalidInput, NotFound, StoreUnavailable
from looper.platform.domain.names import InstanceName, ModelName
from looper.platform.settings import Settings, load_settings

DESK = InstanceName("acme", "desk")
SCORES = Scores(accuracy=0.5, loss=1.0, actions=4, tokens=40)
VERDICT = Verdict(passed=True, reason="better", candidate=SCORES, current=SCORES)


@pytest.fixture
def catalog(catalog_settings: Settings) -> Iterator[Catalog]:
    with closing(Catalog.open(catalog_settings)) as catalog:
        catalog.create_tenant("acme")
        catalog.ensure_instance(DESK)
        yield catalog


def published(catalog: Catalog, batch: str, digest: str) -> bool:
    catalog.add_batch(DESK, batch, source="x", trajectories=1)
    job = catalog.submit(DESK, base="b", recipe=Recipe())
    catalog.claim("me", limit=9, lease_s=60)
    return catalog.publish(job.id, "me", digest=digest, verdict=VERDICT, base_revision="r")


def test_the_migrations_make_the_tables(catalog_settings: Settings) -> None:
    engine = connect(catalog_settings.catalog_url)
    with engine.connect() as sql:
        assert compare_metadata(MigrationContext.configure(sql), metadata) == []
    engine.dispose()


def test_opening_at_once_from_many_threads(catalog_settings: Settings) -> None:
    with ThreadPoolExecutor(4) as pool:
        catalogs = list(pool.map(lambda _: Catalog.open(catalog_settings), range(4)))
    for catalog in catalogs:
        assert catalog.tenants() == []
        catalog.close()


def test_names_are_validated_and_tenants_unique(catalog: Catalog) -> None:
    with pytest.raises(Conflict, match="tenant acme exists already"):
        catalog.create_tenant("acme")
    with pytest.raises(InvalidInput, match=r"'\.\./x' is not a valid name"):
        catalog.create_tenant("../x")
    with pytest.raises(NotFound, match="tenant nobody does not exist: looper tenant create nobody"):
        catalog.ensure_instance(InstanceName("nobody", "desk"))


def test_the_same_batch_twice_changes_nothing(catalog: Catalog) -> None:
    assert catalog.add_batch(DESK, "b1", source="x", trajectories=3)
    assert not catalog.add_batch(DESK, "b1", source="y", trajectories=3)
    assert [batch.source for batch in catalog.batches(DESK)] == ["x"]


def test_submission_needs_new_trajectories(catalog: Catalog) -> None:
    with pytest.raises(InvalidInput, match="no new trajectories"):
        catalog.submit(DESK, base="b", recipe=Recipe())
    with pytest.raises(NotFound, match="instance acme/nobody does not exist"):
        catalog.submit(InstanceName("acme", "nobody"), base="b", recipe=Recipe())
    catalog.add_batch(DESK, "b1", source="x", trajectories=1)
    first = catalog.submit(DESK, base="b", recipe=Recipe())
    assert (first.batches, first.state, first.parent) == (("b1",), State.QUEUED, None)
    assert catalog.submit(DESK, base="b", recipe=Recipe()) == first, "the same again is not queued twice"
    with pytest.raises(InvalidInput, match="no new trajectories"):
        catalog.submit(DESK, base="b", recipe=Recipe(rank=8))
    catalog.cancel(first.id)
    assert catalog.submit(DESK, base="b", recipe=Recipe()).batches == ("b1",)


def test_each_consolidation_is_claimed_once(catalog: Catalog) -> None:
    names = [InstanceName("acme", f"i{number}") for number in range(8)]
    for name in names:
        catalog.ensure_instance(name)
        catalog.add_batch(name, "b", source="x", trajectories=1)
        catalog.submit(name, base="b", recipe=Recipe())
    start = threading.Barrier(4)

    def claim(owner: str) -> list[str]:
        start.wait()
        return [job.id for job in catalog.claim(owner, limit=3, lease_s=60)]

    with ThreadPoolExecutor(4) as pool:
        claims = list(pool.map(claim, ["a", "b", "c", "d"]))
    taken = [id for claim in claims for id in claim]
    while more := catalog.claim("e", limit=3, lease_s=60):
        taken += [job.id for job in more]
    assert len(taken) == len(set(taken)) == 8


def test_a_cohort_shares_base_and_shape(catalog: Catalog) -> None:
    for name, rank in (("one", 8), ("two", 16), ("three", 8)):
        instance = InstanceName("acme", name)
        catalog.ensure_instance(instance)
        catalog.add_batch(instance, "b", source="x", trajectories=1)
        catalog.submit(instance, base="b", recipe=Recipe(rank=rank))
    assert [job.instance.instance for job in catalog.claim("me", limit=9, lease_s=60)] == ["one", "three"]
    assert [job.instance.instance for job in catalog.claim("me", limit=9, lease_s=60)] == ["two"]


def test_what_a_dead_process_held_is_claimed_again_and_its_writes_are_refused(catalog: Catalog) -> None:
    catalog.add_batch(DESK, "b1", source="x", trajectories=1)
    catalog.submit(DESK, base="b", recipe=Recipe())
    (job,) = catalog.claim("dead", limit=1, lease_s=0.05)
    catalog.advance(job.id, "dead", State.TRAINING)
    assert catalog.claim("heir", limit=1, lease_s=60) == []
    time.sleep(0.1)  # the lease itself is what is tested
    (again,) = catalog.claim("heir", limit=1, lease_s=60)
    assert (again.id, again.state) == (job.id, State.TRAINING)
    with pytest.raises(Conflict, match="held by another"):
        catalog.publish(job.id, "dead", digest="d" * 64, verdict=VERDICT, base_revision="r")
    assert catalog.versions(DESK) == []
    assert catalog.heartbeat([job.id], "dead", lease_s=60) == set()
    assert catalog.heartbeat([job.id], "heir", lease_s=60) == {job.id}


def test_released_work_is_queued_at_once(catalog: Catalog) -> None:
    catalog.add_batch(DESK, "b1", source="x", trajectories=1)
    catalog.submit(DESK, base="b", recipe=Recipe())
    (job,) = catalog.claim("one", limit=1, lease_s=60)
    catalog.release([job.id], "one")
    assert [again.id for again in catalog.claim("two", limit=1, lease_s=60)] == [job.id]


def test_a_cancelled_consolidation_refuses_its_worker(catalog: Catalog) -> None:
    catalog.add_batch(DESK, "b1", source="x", trajectories=1)
    job = catalog.submit(DESK, base="b", recipe=Recipe())
    catalog.claim("me", limit=1, lease_s=60)
    catalog.cancel(job.id)
    with pytest.raises(Conflict):
        catalog.progress(job.id, "me", Progress(step=1, steps=2))
    with pytest.raises(Conflict, match="is cancelled already"):
        catalog.cancel(job.id)


def test_publishing_points_prod_and_keeps_a_rollback_made_meanwhile(catalog: Catalog) -> None:
    one, two, three = "1" * 64, "2" * 64, "3" * 64
    assert published(catalog, "b1", one)
    assert published(catalog, "b2", two)
    assert catalog.version(two).parent == one
    assert catalog.resolve(ModelName(DESK)) == two

    catalog.add_batch(DESK, "b3", source="x", trajectories=1)
    job = catalog.submit(DESK, base="b", recipe=Recipe())
    catalog.claim("me", limit=1, lease_s=60)
    catalog.point(DESK, "prod", one)
    assert not catalog.publish(job.id, "me", digest=three, verdict=VERDICT, base_revision="r")
    assert catalog.resolve(ModelName(DESK)) == one
    assert catalog.consolidation(job.id).state == State.PUBLISHED
    assert [version.digest for version in catalog.versions(DESK)] == [three, two, one]


def test_model_names_resolve_to_digests(catalog: Catalog) -> None:
    one = "1" * 64
    published(catalog, "b1", one)
    catalog.point(DESK, "canary", one)
    for name in ("acme/desk", "acme/desk@canary", f"acme/desk@{one}"):
        assert catalog.resolve(ModelName.parse(name)) == one
    for name in ("acme/desk@blue", f"acme/desk@{'2' * 64}", "acme/other", "other/desk", f"other/desk@{one}"):
        with pytest.raises(NotFound, match=f"model {name} does not exist"):
            catalog.resolve(ModelName.parse(name))


def test_a_channel_points_to_the_instances_own_versions_only(catalog: Catalog) -> None:
    published(catalog, "b1", "1" * 64)
    other = InstanceName("acme", "other")
    catalog.ensure_instance(other)
    with pytest.raises(NotFound, match="has no version"):
        catalog.point(other, "prod", "1" * 64)


def test_a_database_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        Catalog.open(load_settings(home=tmp_path, catalog={"url": "postgresql://nobody@127.0.0.1:1/none"}))
    with pytest.raises(InvalidInput, match="is not a database URL"):
        Catalog.open(load_settings(home=tmp_path, catalog={"url": "no url"}))
