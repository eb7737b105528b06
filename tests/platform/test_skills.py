"""Versions, channels, canary shares and revocation."""

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from looper.platform.catalog import Catalog, Revocation
from looper.platform.catalog.engine import connect
from looper.platform.domain.errors import InvalidInput, NotFound
from looper.platform.domain.names import InstanceName, ModelName
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.scores import Comparison, GateVerdict, Scores
from looper.platform.domain.states import ConsolidationState, QueueStage
from looper.platform.settings import Settings

DESK = InstanceName("acme", "desk")
SCORES = Scores(accuracy=0.5, loss=1.0, actions=4, tokens=40, loops=0.1, tool_errors=0.2)
COMPARISON = Comparison(candidate=SCORES, reference=SCORES)
VERDICT = GateVerdict(
    passed=True, reason="better", candidate=SCORES, current=SCORES, earlier=COMPARISON, control=COMPARISON, canary=0.3
)
FAR_FUTURE = datetime(2200, 1, 1, tzinfo=UTC)


@pytest.fixture
def catalog(catalog_settings: Settings) -> Iterator[Catalog]:
    with closing(Catalog.open(catalog_settings)) as catalog:
        for tenant in ("acme", "umbrella"):
            catalog.create_tenant(tenant)
        yield catalog


def submit_and_claim(catalog: Catalog, instance: InstanceName, batch: str, base: str = "b") -> str:
    """Submit a consolidation of a new batch, claim it, and return its id."""
    catalog.ensure_instance(instance)
    catalog.add_batch(instance, batch, source="x", trajectories=1)
    job = catalog.submit(instance, base=base, recipe=Recipe())
    catalog.claim("me", QueueStage.SYNTHESIS, limit=9, lease_s=60)
    return job.id


def publish_version(catalog: Catalog, digest: str, instance: InstanceName = DESK, base: str = "b") -> str:
    catalog.publish(
        submit_and_claim(catalog, instance, f"batch-{digest[:8]}", base),
        "me",
        digest=digest,
        verdict=VERDICT,
        base_revision="r",
    )
    return digest


def test_the_lineage_lists_all_ancestors(catalog: Catalog) -> None:
    publish_version(catalog, "1")
    publish_version(catalog, "2")
    publish_version(catalog, "3")
    assert [version.digest for version in catalog.get_lineage("3")] == ["3", "2", "1"]
    catalog.set_channel(DESK, "prod", "2")
    publish_version(catalog, "4")
    assert [version.digest for version in catalog.get_lineage("4")] == ["4", "2", "1"]
    assert catalog.get_lineage("1") == [catalog.get_version("1")]
    assert catalog.get_lineage("none") == []


def test_siblings_are_the_newest_versions_of_the_tenants_other_instances(catalog: Catalog) -> None:
    publish_version(catalog, "1")
    publish_version(catalog, "2", InstanceName("acme", "mail"))
    publish_version(catalog, "3", InstanceName("acme", "mail"))
    publish_version(catalog, "4", InstanceName("acme", "shop"))
    publish_version(catalog, "5", InstanceName("acme", "large"), base="large")
    publish_version(catalog, "6", InstanceName("umbrella", "mail"))

    def siblings(before: datetime = FAR_FUTURE, limit: int = 9) -> list[str]:
        return [version.digest for version in catalog.list_sibling_versions(DESK, base="b", before=before, limit=limit)]

    assert siblings() == ["4", "3"]
    assert siblings(limit=1) == ["4"]
    assert siblings(before=catalog.get_version("3").created_at) == ["2"]
    assert siblings(before=catalog.get_version("1").created_at) == []


def test_batches_of_a_rejected_consolidation_are_used_by_the_next(catalog: Catalog) -> None:
    publish_version(catalog, "1")
    rejected = submit_and_claim(catalog, DESK, "b1")
    catalog.reject(rejected, "me", VERDICT.model_copy(update={"passed": False, "reason": "forgets"}))
    ended = catalog.get_consolidation(rejected)
    assert (ended.state, ended.reason, ended.batches) == (ConsolidationState.REJECTED, "forgets", ("b1",))
    assert ended.verdict == VERDICT.model_copy(update={"passed": False, "reason": "forgets"})

    again = catalog.get_consolidation(submit_and_claim(catalog, DESK, "b2"))
    assert (again.batches, again.parent) == (("b1", "b2"), "1")


def test_the_verdict_is_stored_with_the_version(catalog: Catalog) -> None:
    assert catalog.get_version(publish_version(catalog, "1")).verdict == VERDICT


def test_a_verdict_of_an_older_release_is_readable(catalog: Catalog, catalog_settings: Settings) -> None:
    publish_version(catalog, "1")
    scores = {"accuracy": 0.5, "loss": 1.0, "actions": 4, "tokens": 40}
    old = {"passed": True, "reason": "better", "candidate": scores, "current": scores}
    engine = connect(catalog_settings.catalog_url, 10, older="refuse")
    with engine.begin() as sql:
        sql.execute(text("UPDATE versions SET verdict = :old"), {"old": json.dumps(old)})
    engine.dispose()
    verdict = catalog.get_version("1").verdict
    assert (verdict.reason, verdict.candidate.loops, verdict.earlier, verdict.canary) == ("better", None, None, None)


def route_shares(catalog: Catalog, name: str = "acme/desk") -> list[tuple[str | None, str, float]]:
    return [(target.channel, target.digest, target.share) for target in catalog.resolve_targets(ModelName.parse(name))]


def test_a_canary_answers_its_share_of_the_plain_name_and_has_its_own_name(catalog: Catalog) -> None:
    first, second = publish_version(catalog, "1" * 64), publish_version(catalog, "2" * 64)
    assert route_shares(catalog) == [("prod", second, 1)]
    catalog.set_channel(DESK, "canary", first, 0.1)
    catalog.set_channel(DESK, "spare", first)
    assert route_shares(catalog) == [("prod", second, 0.9), ("canary", first, 0.1)]
    assert route_shares(catalog, "acme/desk@canary") == [("canary", first, 0.1)]
    assert route_shares(catalog, "acme/desk@spare") == [("spare", first, 0)]
    assert route_shares(catalog, f"acme/desk@{first}") == [(None, first, 1)]
    catalog.set_channel(DESK, "canary", first)
    assert route_shares(catalog) == [("prod", second, 1)]
    catalog.delete_channel(DESK, "canary")
    with pytest.raises(NotFound):
        route_shares(catalog, "acme/desk@canary")
    with pytest.raises(NotFound, match="has no channel canary"):
        catalog.delete_channel(DESK, "canary")


@pytest.mark.parametrize(
    ("channel", "share", "message"),
    [
        ("canary", -0.1, "give 0 to 1"),
        ("canary", 1.1, "give 0 to 1"),
        ("prod", 0.5, "none to prod"),
        ("b", 0.7, "0.5 already"),
    ],
)
def test_shares_add_up_to_at_most_one(catalog: Catalog, channel: str, share: float, message: str) -> None:
    one = publish_version(catalog, "1" * 64)
    catalog.set_channel(DESK, "a", one, 0.5)
    with pytest.raises(InvalidInput, match=message):
        catalog.set_channel(DESK, channel, one, share)
    assert route_shares(catalog) == [("prod", one, 0.5), ("a", one, 0.5)]


def test_a_revoked_version_cannot_be_resolved_and_its_channels_fall_back(catalog: Catalog) -> None:
    first, second, third = (publish_version(catalog, n * 64) for n in "123")
    catalog.set_channel(DESK, "canary", second, 0.1)
    start = catalog.list_revocations(None)
    assert start.rows == frozenset()
    assert catalog.revoke_version(DESK, second) == {"canary": None}
    assert catalog.revoke_version(DESK, third) == {"prod": first}
    assert route_shares(catalog) == [("prod", first, 1)]
    assert catalog.list_revocations(start.at).rows == {Revocation("version", second), Revocation("version", third)}
    for revoked in (second, third):
        with pytest.raises(NotFound):
            catalog.resolve_targets(ModelName(DESK, revoked))
        with pytest.raises(NotFound, match="has no version"):
            catalog.set_channel(DESK, "prod", revoked)
        assert catalog.revoke_version(DESK, revoked) == {}, "a client that lost the response asks again"
    assert catalog.revoke_version(DESK, first) == {"prod": None}
    with pytest.raises(NotFound):
        catalog.resolve_targets(ModelName(DESK))
    assert catalog.list_revocations(None).rows == frozenset()


def test_a_version_of_another_instance_cannot_be_revoked(catalog: Catalog) -> None:
    foreign = publish_version(catalog, "1" * 64, InstanceName("umbrella", "mail"))
    publish_version(catalog, "2" * 64)
    with pytest.raises(NotFound, match="has no version"):
        catalog.revoke_version(DESK, foreign)
    assert catalog.get_version(foreign).revoked_at is None
