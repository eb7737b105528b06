"""The catalog: schema, tenants, batches, submission, publishing and name resolution."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from looper.platform.catalog import Catalog
from looper.platform.catalog.engine import connect
from looper.platform.catalog.schema import VERSION_TABLE
from looper.platform.catalog.tables import metadata
from looper.platform.domain.consolidation import TrainingProgress
from looper.platform.domain.errors import Conflict, InvalidInput, NotFound, StoreUnavailable
from looper.platform.domain.names import InstanceName, ModelName
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.states import ConsolidationState, QueueStage
from looper.platform.settings import Settings, load_settings
from tests.platform.queue_harness import VERDICT

DESK = InstanceName("acme", "desk")


@pytest.fixture
def catalog(catalog_settings: Settings) -> Iterator[Catalog]:
    with closing(Catalog.open(catalog_settings)) as catalog:
        catalog.create_tenant("acme")
        catalog.ensure_instance(DESK)
        yield catalog


def publish_version(catalog: Catalog, batch: str, digest: str) -> bool:
    """Publish a version of DESK that was trained on a new batch. Return whether prod moved."""
    catalog.add_batch(DESK, batch, source="x", trajectories=1)
    job = catalog.submit(DESK, base="b", recipe=Recipe())
    catalog.claim("me", QueueStage.SYNTHESIS, limit=9, lease_s=60)
    return catalog.publish(job.id, "me", digest=digest, verdict=VERDICT, base_revision="r")


def test_migrations_create_the_tables(catalog_settings: Settings) -> None:
    engine = connect(catalog_settings.catalog_url, 10, older="refuse")
    with engine.connect() as sql:
        context = MigrationContext.configure(sql, opts={"version_table": VERSION_TABLE})
        (compatibility,) = compare_metadata(context, metadata)
        assert (compatibility[0], compatibility[1].name) == ("remove_table", "alembic_version"), "see schema.py"
    engine.dispose()


def test_concurrent_opening_migrates_once(catalog_settings: Settings) -> None:
    with ThreadPoolExecutor(4) as pool:
        catalogs = list(pool.map(lambda _: Catalog.open(catalog_settings), range(4)))
    for catalog in catalogs:
        assert catalog.list_tenants() == []
        catalog.close()


def test_tenant_names_are_validated_and_unique(catalog: Catalog) -> None:
    with pytest.raises(Conflict, match="tenant acme exists already: use it"):
        catalog.create_tenant("acme")
    with pytest.raises(InvalidInput, match=r"'\.\./x' is not a valid name"):
        catalog.create_tenant("../x")
    with pytest.raises(NotFound, match="tenant nobody does not exist: looper tenant create nobody"):
        catalog.ensure_instance(InstanceName("nobody", "desk"))


def test_adding_a_batch_twice_changes_nothing(catalog: Catalog) -> None:
    assert catalog.add_batch(DESK, "b1", source="x", trajectories=3)
    assert not catalog.add_batch(DESK, "b1", source="y", trajectories=3)
    assert [batch.source for batch in catalog.list_batches(DESK)] == ["x"]


def test_submit_needs_new_trajectories(catalog: Catalog) -> None:
    with pytest.raises(InvalidInput, match="no new trajectories"):
        catalog.submit(DESK, base="b", recipe=Recipe())
    with pytest.raises(NotFound, match="instance acme/nobody does not exist"):
        catalog.submit(InstanceName("acme", "nobody"), base="b", recipe=Recipe())
    catalog.add_batch(DESK, "b1", source="x", trajectories=1)
    first = catalog.submit(DESK, base="b", recipe=Recipe())
    assert (first.batches, first.state, first.parent) == (("b1",), ConsolidationState.QUEUED, None)
    assert catalog.submit(DESK, base="b", recipe=Recipe()) == first, "submitting the same again queues nothing"
    with pytest.raises(InvalidInput, match="no new trajectories"):
        catalog.submit(DESK, base="b", recipe=Recipe(rank=8))
    catalog.cancel(first.id)
    assert catalog.submit(DESK, base="b", recipe=Recipe()).batches == ("b1",)


def test_submitting_again_changes_the_priority(catalog: Catalog) -> None:
    catalog.add_batch(DESK, "b1", source="x", trajectories=1)
    first = catalog.submit(DESK, base="b", recipe=Recipe())
    again = catalog.submit(DESK, base="b", recipe=Recipe(), priority=5)
    assert (first.priority, again.id, again.priority) == (0, first.id, 5)
    with pytest.raises(InvalidInput, match="priority 11 is not from -10 to 10"):
        catalog.submit(DESK, base="b", recipe=Recipe(), priority=11)


def test_get_consolidations_by_id(catalog: Catalog) -> None:
    catalog.add_batch(DESK, "b1", source="x", trajectories=1)
    one = catalog.submit(DESK, base="b", recipe=Recipe())
    catalog.add_batch(DESK, "b2", source="x", trajectories=1)
    two = catalog.submit(DESK, base="b", recipe=Recipe())
    assert catalog.get_consolidations([two.id, one.id]) == [two, one]
    assert catalog.list_unfinished() == [one, two]
    catalog.cancel(one.id)
    assert catalog.list_unfinished() == [two]
    with pytest.raises(NotFound, match="consolidation none does not exist: looper jobs list"):
        catalog.get_consolidations([one.id, "none"])


def test_the_worker_of_a_cancelled_consolidation_cannot_write(catalog: Catalog) -> None:
    catalog.add_batch(DESK, "b1", source="x", trajectories=1)
    job = catalog.submit(DESK, base="b", recipe=Recipe())
    catalog.claim("me", QueueStage.SYNTHESIS, limit=1, lease_s=60)
    catalog.cancel(job.id)
    with pytest.raises(Conflict):
        catalog.report_progress(job.id, "me", TrainingProgress(step=1, steps=2))
    assert catalog.heartbeat([job.id], "me", lease_s=60) == set()
    with pytest.raises(Conflict, match="is cancelled already"):
        catalog.cancel(job.id)


def test_publishing_moves_prod_unless_it_was_moved_during_the_consolidation(catalog: Catalog) -> None:
    one, two, three = "1" * 64, "2" * 64, "3" * 64
    assert publish_version(catalog, "b1", one)
    assert publish_version(catalog, "b2", two)
    assert catalog.get_version(two).parent == one
    assert catalog.resolve(ModelName(DESK)) == two

    catalog.add_batch(DESK, "b3", source="x", trajectories=1)
    job = catalog.submit(DESK, base="b", recipe=Recipe())
    catalog.claim("me", QueueStage.SYNTHESIS, limit=1, lease_s=60)
    catalog.set_channel(DESK, "prod", one)
    assert not catalog.publish(job.id, "me", digest=three, verdict=VERDICT, base_revision="r")
    assert catalog.resolve(ModelName(DESK)) == one
    assert catalog.get_consolidation(job.id).state == ConsolidationState.PUBLISHED
    assert [version.digest for version in catalog.list_versions(DESK)] == [three, two, one]


def test_model_names_resolve_to_digests(catalog: Catalog) -> None:
    one = "1" * 64
    publish_version(catalog, "b1", one)
    catalog.set_channel(DESK, "canary", one)
    for name in ("acme/desk", "acme/desk@canary", f"acme/desk@{one}"):
        assert catalog.resolve(ModelName.parse(name)) == one
    for name in ("acme/desk@blue", f"acme/desk@{'2' * 64}", "acme/other", "other/desk", f"other/desk@{one}"):
        with pytest.raises(NotFound, match=f"model {name} does not exist"):
            catalog.resolve(ModelName.parse(name))


def test_a_channel_cannot_point_to_a_version_of_another_instance(catalog: Catalog) -> None:
    publish_version(catalog, "b1", "1" * 64)
    other = InstanceName("acme", "other")
    catalog.ensure_instance(other)
    with pytest.raises(NotFound, match="has no version"):
        catalog.set_channel(other, "prod", "1" * 64)


def test_an_unreachable_database_raises_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        Catalog.open(load_settings(home=tmp_path, catalog={"url": "postgresql://nobody@127.0.0.1:1/none"}))
    with pytest.raises(InvalidInput, match="is not a database URL"):
        Catalog.open(load_settings(home=tmp_path, catalog={"url": "no url"}))


def test_consolidations_are_counted_by_state_however_many_there_are(catalog: Catalog) -> None:
    catalog.create_tenant("counted")
    assert catalog.count_consolidations() == {}
    names = [InstanceName("counted", f"desk{number}") for number in range(201)]
    for name in names:
        catalog.ensure_instance(name)
        catalog.add_batch(name, "b", source="x", trajectories=1)
    jobs = catalog.submit_all(dict.fromkeys(names, "b"), recipe=Recipe())
    catalog.cancel(jobs[0].id)
    assert catalog.count_consolidations() == {ConsolidationState.QUEUED: 200, ConsolidationState.CANCELLED: 1}


def test_of_several_instances_all_are_queued_or_none(catalog: Catalog) -> None:
    catalog.create_tenant("counted")
    good, empty = InstanceName("counted", "good"), InstanceName("counted", "empty")
    for name in (good, empty):
        catalog.ensure_instance(name)
    catalog.add_batch(good, "b", source="x", trajectories=1)
    with pytest.raises(InvalidInput, match="instance counted/empty has no new trajectories"):
        catalog.submit_all({good: "b", empty: "b"}, recipe=Recipe())
    assert catalog.list_consolidations() == []
    (job,) = catalog.submit_all({good: "b"}, recipe=Recipe())
    assert job.state is ConsolidationState.QUEUED
