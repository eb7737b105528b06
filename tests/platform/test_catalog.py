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
from looper.platform.domain.consolidation import (
    ConsolidationState,
    GateVerdict,
    QueueStage,
    Recipe,
    Scores,
    TrainingProgress,
)
from looper.platform.domain.errors import Conflict, InvalidInput, NotFound, StoreUnavailable
from looper.platform.domain.names import InstanceName, ModelName
from looper.platform.settings import Settings, load_settings

DESK = InstanceName("acme", "desk")
SCORES = Scores(accuracy=0.5, loss=1.0, actions=4, tokens=40)
VERDICT = GateVerdict(passed=True, reason="better", candidate=SCORES, current=SCORES)


@pytest.fixture
def catalog(catalog_settings: Settings) -> Iterator[Catalog]:
    with closing(Catalog.open(catalog_settings)) as catalog:
        catalog.create_tenant("acme")
        catalog.ensure_instance(DESK)
        yield catalog


def published(catalog: Catalog, batch: str, digest: str) -> bool:
    catalog.add_batch(DESK, batch, source="x", trajectories=1)
    job = catalog.submit(DESK, base="b", recipe=Recipe())
    catalog.claim("me", QueueStage.SYNTHESIS, limit=9, lease_s=60)
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
    assert (first.batches, first.state, first.parent) == (("b1",), ConsolidationState.QUEUED, None)
    assert catalog.submit(DESK, base="b", recipe=Recipe()) == first, "the same again is not queued twice"
    with pytest.raises(InvalidInput, match="no new trajectories"):
        catalog.submit(DESK, base="b", recipe=Recipe(rank=8))
    catalog.cancel(first.id)
    assert catalog.submit(DESK, base="b", recipe=Recipe()).batches == ("b1",)


def test_submitted_again_the_one_that_waits_takes_the_priority(catalog: Catalog) -> None:
    catalog.add_batch(DESK, "b1", source="x", trajectories=1)
    first = catalog.submit(DESK, base="b", recipe=Recipe())
    again = catalog.submit(DESK, base="b", recipe=Recipe(), priority=5)
    assert (first.priority, again.id, again.priority) == (0, first.id, 5)
    with pytest.raises(InvalidInput, match="priority 11 is not from -10 to 10"):
        catalog.submit(DESK, base="b", recipe=Recipe(), priority=11)


def test_consolidations_are_found_by_their_ids(catalog: Catalog) -> None:
    catalog.add_batch(DESK, "b1", source="x", trajectories=1)
    one = catalog.submit(DESK, base="b", recipe=Recipe())
    catalog.add_batch(DESK, "b2", source="x", trajectories=1)
    two = catalog.submit(DESK, base="b", recipe=Recipe())
    assert catalog.consolidations_by_id([two.id, one.id]) == [two, one]
    assert catalog.unfinished() == [one, two]
    catalog.cancel(one.id)
    assert catalog.unfinished() == [two]
    with pytest.raises(NotFound, match="consolidation none does not exist: looper jobs list"):
        catalog.consolidations_by_id([one.id, "none"])


def test_a_cancelled_consolidation_refuses_its_worker(catalog: Catalog) -> None:
    catalog.add_batch(DESK, "b1", source="x", trajectories=1)
    job = catalog.submit(DESK, base="b", recipe=Recipe())
    catalog.claim("me", QueueStage.SYNTHESIS, limit=1, lease_s=60)
    catalog.cancel(job.id)
    with pytest.raises(Conflict):
        catalog.progress(job.id, "me", TrainingProgress(step=1, steps=2))
    assert catalog.heartbeat([job.id], "me", lease_s=60) == set()
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
    catalog.claim("me", QueueStage.SYNTHESIS, limit=1, lease_s=60)
    catalog.point(DESK, "prod", one)
    assert not catalog.publish(job.id, "me", digest=three, verdict=VERDICT, base_revision="r")
    assert catalog.resolve(ModelName(DESK)) == one
    assert catalog.consolidation(job.id).state == ConsolidationState.PUBLISHED
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
