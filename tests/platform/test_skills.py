"""Where versions come from, and what becomes of their numbers."""

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from looper.platform.catalog import Catalog
from looper.platform.catalog.engine import connect
from looper.platform.domain.consolidation import Comparison, ConsolidationState, GateVerdict, QueueStage, Recipe, Scores
from looper.platform.domain.errors import InvalidInput, NotFound
from looper.platform.domain.names import InstanceName, ModelName
from looper.platform.settings import Settings

DESK = InstanceName("acme", "desk")
SCORES = Scores(accuracy=0.5, loss=1.0, actions=4, tokens=40, loops=0.1, tool_errors=0.2)
BOTH = Comparison(candidate=SCORES, reference=SCORES)
VERDICT = GateVerdict(
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
    catalog.claim("me", QueueStage.SYNTHESIS, limit=9, lease_s=60)
    return job.id


def publish(catalog: Catalog, digest: str, instance: InstanceName = DESK, base: str = "b") -> str:
    catalog.publish(
        claimed(catalog, instance, f"batch-{digest[:8]}", base), "me", digest=digest, verdict=VERDICT, base_revision="r"
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
    assert (ended.state, ended.reason, ended.batches) == (ConsolidationState.REJECTED, "forgets", ("b1",))
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


def shares(catalog: Catalog, name: str = "acme/desk") -> list[tuple[str | None, str, float]]:
    return [(each.channel, each.digest, each.share) for each in catalog.targets(ModelName.parse(name))]


def test_a_canary_takes_its_share_of_the_plain_name_and_has_a_name_of_its_own(catalog: Catalog) -> None:
    first, second = publish(catalog, "1" * 64), publish(catalog, "2" * 64)
    assert shares(catalog) == [("prod", second, 1)]
    catalog.point(DESK, "canary", first, 0.1)
    catalog.point(DESK, "spare", first)
    assert shares(catalog) == [("prod", second, 0.9), ("canary", first, 0.1)]
    assert shares(catalog, "acme/desk@canary") == [("canary", first, 0.1)]
    assert shares(catalog, "acme/desk@spare") == [("spare", first, 0)]
    assert shares(catalog, f"acme/desk@{first}") == [(None, first, 1)]
    catalog.point(DESK, "canary", first)
    assert shares(catalog) == [("prod", second, 1)]
    catalog.drop(DESK, "canary")
    with pytest.raises(NotFound):
        shares(catalog, "acme/desk@canary")
    with pytest.raises(NotFound, match="has no channel canary"):
        catalog.drop(DESK, "canary")


@pytest.mark.parametrize(
    ("channel", "share", "why"),
    [
        ("canary", -0.1, "give 0 to 1"),
        ("canary", 1.1, "give 0 to 1"),
        ("prod", 0.5, "none to prod"),
        ("b", 0.7, "0.5 already"),
    ],
)
def test_shares_are_of_one_whole(catalog: Catalog, channel: str, share: float, why: str) -> None:
    one = publish(catalog, "1" * 64)
    catalog.point(DESK, "a", one, 0.5)
    with pytest.raises(InvalidInput, match=why):
        catalog.point(DESK, channel, one, share)
    assert shares(catalog) == [("prod", one, 0.5), ("a", one, 0.5)]


def test_what_is_revoked_is_nobody_s_and_its_channels_fall_back(catalog: Catalog) -> None:
    first, second, third = (publish(catalog, n * 64) for n in "123")
    catalog.point(DESK, "canary", second, 0.1)
    began = datetime.now(UTC)
    assert catalog.revoke(DESK, second) == {"canary": None}
    assert catalog.revoke(DESK, third) == {"prod": first}
    assert shares(catalog) == [("prod", first, 1)]
    assert sorted(catalog.revoked_since(began)) == [second, third]
    for gone in (second, third):
        with pytest.raises(NotFound):
            catalog.targets(ModelName(DESK, gone))
        for again in (
            lambda gone=gone: catalog.revoke(DESK, gone),
            lambda gone=gone: catalog.point(DESK, "prod", gone),
        ):
            with pytest.raises(NotFound, match="has no version"):
                again()
    assert catalog.revoke(DESK, first) == {"prod": None}
    with pytest.raises(NotFound):
        catalog.targets(ModelName(DESK))
    assert catalog.revoked_since(datetime.now(UTC)) == []


def test_one_cannot_revoke_another_s(catalog: Catalog) -> None:
    theirs = publish(catalog, "1" * 64, InstanceName("umbrella", "mail"))
    publish(catalog, "2" * 64)
    with pytest.raises(NotFound, match="has no version"):
        catalog.revoke(DESK, theirs)
    assert catalog.version(theirs).revoked_at is None
