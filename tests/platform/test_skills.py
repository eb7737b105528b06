"""Where versions come from, and what becomes of their numbers."""

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from looper.platform.catalog import Catalog
from looper.platform.catalog.engine import connect
from looper.platform.domain.consolidation import Comparison, Recipe, Scores, Stage, State, Verdict
from looper.platform.domain.names import InstanceName
from looper.platform.settings import Settings

DESK = InstanceName("acme", "desk")
SCORES = Scores(accuracy=0.5, loss=1.0, actions=4, tokens=40, loops=0.1, tool_errors=0.2)
BOTH = Comparison(candidate=SCORES, reference=SCORES)
VERDICT = Verdict(
    passed=True, reason="better", candidate=SCORES, current=SCORES, earlier=BOTH, control=BOTH, canary=0.3
)
FAR = datetime(2200, 1, 1, tzinfo=UTC)


@pytest.fixture
def catalog(catalog_settings: Settings) -> Iterator[Catalog]:
    with closing(Catalog.open(catalog_settings)) as catalog:
        for tenant in ("acme", "umbrella"):
            catalog.create_tenant(tenant)
        yield catalog


def claimed(catalog: Catalog, instance: InstanceName, batch: str, base: str = "b") -> str:
    """A consolidation of a new batch, and what else was not published, as its worker holds it."""
    catalog.ensure_instance(instance)
    catalog.add_batch(instance, batch, source="x", trajectories=1)
    job = catalog.submit(instance, base=base, recipe=Recipe())
    catalog.claim("me", Stage.SYNTHESIS, limit=9, lease_s=60)
    return job.id


def publish(catalog: Catalog, digest: str, instance: InstanceName = DESK, base: str = "b") -> str:
    catalog.publish(
        claimed(catalog, instance, f"batch-{digest}", base), "me", digest=digest, verdict=VERDICT, base_revision="r"
    )
    return digest


def test_the_lineage_goes_back_from_version_to_version(catalog: Catalog) -> None:
    publish(catalog, "1")
    publish(catalog, "2")
    publish(catalog, "3")
    assert [version.digest for version in catalog.lineage("3")] == ["3", "2", "1"]
    catalog.point(DESK, "prod", "2")
    publish(catalog, "4")
    assert [version.digest for version in catalog.lineage("4")] == ["4", "2", "1"]
    assert catalog.lineage("1") == [catalog.version("1")]
    assert catalog.lineage("none") == []


def test_neighbours_are_the_newest_of_the_tenants_other_instances(catalog: Catalog) -> None:
    publish(catalog, "1")
    publish(catalog, "2", InstanceName("acme", "mail"))
    publish(catalog, "3", InstanceName("acme", "mail"))
    publish(catalog, "4", InstanceName("acme", "shop"))
    publish(catalog, "5", InstanceName("acme", "large"), base="large")
    publish(catalog, "6", InstanceName("umbrella", "mail"))

    def neighbours(before: datetime = FAR, limit: int = 9) -> list[str]:
        return [version.digest for version in catalog.neighbours(DESK, base="b", before=before, limit=limit)]

    assert neighbours() == ["4", "3"]
    assert neighbours(limit=1) == ["4"]
    assert neighbours(before=catalog.version("3").created_at) == ["2"]
    assert neighbours(before=catalog.version("1").created_at) == []


def test_what_a_rejected_one_held_comes_again_with_the_next(catalog: Catalog) -> None:
    publish(catalog, "1")
    rejected = claimed(catalog, DESK, "b1")
    catalog.reject(rejected, "me", VERDICT.model_copy(update={"passed": False, "reason": "forgets"}))
    ended = catalog.consolidation(rejected)
    assert (ended.state, ended.reason, ended.batches) == (State.REJECTED, "forgets", ("b1",))
    assert ended.verdict == VERDICT.model_copy(update={"passed": False, "reason": "forgets"})

    again = catalog.consolidation(claimed(catalog, DESK, "b2"))
    assert (again.batches, again.parent) == (("b1", "b2"), "1")


def test_the_numbers_of_a_verdict_are_kept(catalog: Catalog) -> None:
    assert catalog.version(publish(catalog, "1")).verdict == VERDICT


def test_a_verdict_from_before_there_were_more_numbers_is_read(catalog: Catalog, catalog_settings: Settings) -> None:
    publish(catalog, "1")
    scores = {"accuracy": 0.5, "loss": 1.0, "actions": 4, "tokens": 40}
    old = {"passed": True, "reason": "better", "candidate": scores, "current": scores}
    engine = connect(catalog_settings.catalog_url)
    with engine.begin() as sql:
        sql.execute(text("UPDATE versions SET verdict = :old"), {"old": json.dumps(old)})
    engine.dispose()
    verdict = catalog.version("1").verdict
    assert (verdict.reason, verdict.candidate.loops, verdict.earlier, verdict.canary) == ("better", None, None, None)
