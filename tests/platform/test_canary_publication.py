"""A version that the gate left undecided goes to the channel canary, and never takes away what a person has set."""

import json
from collections.abc import Iterator
from contextlib import closing

import pytest

from looper.platform.catalog import Catalog
from looper.platform.domain.errors import InvalidInput, NotFound
from looper.platform.domain.names import InstanceName, ModelName
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.scores import GateVerdict
from looper.platform.domain.states import ConsolidationState, QueueStage
from looper.platform.settings import Settings
from tests.platform.queue_harness import VERDICT

DESK = InstanceName("acme", "desk")
UNDECIDED = VERDICT.model_copy(update={"passed": False, "undecided": True, "reason": "too little evidence: 2 of 4"})
ONE, TWO, THREE, FOUR = ("1" * 64, "2" * 64, "3" * 64, "4" * 64)


@pytest.fixture
def catalog(catalog_settings: Settings) -> Iterator[Catalog]:
    with closing(Catalog.open(catalog_settings)) as catalog:
        catalog.create_tenant("acme")
        catalog.ensure_instance(DESK)
        yield catalog


def begin(catalog: Catalog, batch: str | None) -> str:
    if batch is not None:
        catalog.add_batch(DESK, batch, source="x", trajectories=1)
    job = catalog.submit(DESK, base="b", recipe=Recipe())
    catalog.claim("me", QueueStage.SYNTHESIS, limit=9, lease_s=60)
    return job.id


def end(catalog: Catalog, id: str, digest: str, verdict: GateVerdict, share: float = 0.1) -> bool:
    return catalog.publish(id, "me", digest=digest, verdict=verdict, base_revision="r", canary_share=share)


def publish(catalog: Catalog, digest: str, verdict: GateVerdict, share: float = 0.1) -> bool:
    return end(catalog, begin(catalog, f"batch {digest[0]}"), digest, verdict, share)


def routes(catalog: Catalog) -> list[tuple[str | None, str, float]]:
    return [(target.channel, target.digest, target.share) for target in catalog.resolve_targets(ModelName(DESK))]


def test_an_undecided_version_answers_a_share_beside_prod_and_says_the_way_on(catalog: Catalog) -> None:
    publish(catalog, ONE, VERDICT)
    id = begin(catalog, "batch")
    assert end(catalog, id, TWO, UNDECIDED, share=0.25)
    assert routes(catalog) == [("prod", ONE, 0.75), ("canary", TWO, 0.25)]
    job = catalog.get_consolidation(id)
    assert (job.state, job.digest, job.verdict) == (ConsolidationState.PUBLISHED, TWO, UNDECIDED)
    assert job.reason == (
        "undecided: too little evidence: 2 of 4; canary answers 25% of the requests for acme/desk with it; "
        f"to serve it: looper skills promote acme/desk {TWO[:12]}"
    )
    events = [event.what for event in catalog.list_events(consolidation=id)]
    assert events[-3:] == [f"published {TWO}", f"canary -> {TWO} for 25%", job.reason]
    assert catalog.get_version(TWO).verdict == UNDECIDED


def test_without_a_prod_only_the_canarys_own_name_answers(catalog: Catalog) -> None:
    id = begin(catalog, "batch")
    end(catalog, id, ONE, UNDECIDED)
    with pytest.raises(NotFound):
        catalog.resolve(ModelName(DESK))
    assert catalog.resolve(ModelName(DESK, "canary")) == ONE
    assert catalog.get_channel_shares(DESK) == {}
    assert "acme/desk is not served yet, and acme/desk@canary answers with it" in str(
        catalog.get_consolidation(id).reason
    )


def test_a_newer_undecided_version_takes_the_place_of_an_older_one_and_one_that_passed_ends_it(
    catalog: Catalog,
) -> None:
    publish(catalog, ONE, VERDICT)
    publish(catalog, TWO, UNDECIDED)
    assert publish(catalog, THREE, UNDECIDED)
    assert catalog.get_channels(DESK) == {"prod": ONE, "canary": THREE}
    assert publish(catalog, FOUR, VERDICT)
    assert catalog.get_channels(DESK) == {"prod": FOUR}
    assert f"canary is deleted: {FOUR} has passed, and {THREE} was undecided" in [
        event.what for event in catalog.list_events(instance=DESK)
    ]


def test_a_canary_that_a_person_has_set_stays(catalog: Catalog) -> None:
    publish(catalog, ONE, VERDICT)
    publish(catalog, TWO, VERDICT)
    catalog.set_channel(DESK, "canary", ONE, 0.5)
    id = begin(catalog, "batch")
    assert not end(catalog, id, THREE, UNDECIDED)
    assert routes(catalog) == [("prod", TWO, 0.5), ("canary", ONE, 0.5)]
    assert f"canary was not moved, because somebody has pointed it to {ONE}" in str(
        catalog.get_consolidation(id).reason
    )
    publish(catalog, FOUR, VERDICT)
    assert catalog.get_channels(DESK) == {"prod": FOUR, "canary": ONE}


def test_a_person_who_gives_an_automatic_canary_another_share_has_set_it(catalog: Catalog) -> None:
    publish(catalog, ONE, VERDICT)
    publish(catalog, TWO, UNDECIDED)
    catalog.set_channel(DESK, "canary", TWO, 0.4)
    assert not publish(catalog, THREE, UNDECIDED)
    assert catalog.get_channels(DESK)["canary"] == TWO
    catalog.delete_channel(DESK, "canary")
    assert publish(catalog, FOUR, UNDECIDED), "where there is none, nobody's is taken away"


def test_a_canary_that_was_promoted_is_free_again(catalog: Catalog) -> None:
    publish(catalog, ONE, VERDICT)
    catalog.set_channel(DESK, "canary", ONE, 0.5)
    assert publish(catalog, TWO, UNDECIDED), "it pointed to what prod points to"
    assert catalog.get_channels(DESK) == {"prod": ONE, "canary": TWO}


def test_a_prod_that_was_changed_meanwhile_or_a_revoked_version_moves_nothing(catalog: Catalog) -> None:
    publish(catalog, ONE, VERDICT)
    publish(catalog, TWO, VERDICT)
    id = begin(catalog, "batch")
    catalog.set_channel(DESK, "prod", ONE)
    assert not end(catalog, id, THREE, UNDECIDED)
    assert "canary was not moved, because prod was changed" in str(catalog.get_consolidation(id).reason)
    assert catalog.get_channels(DESK) == {"prod": ONE}
    catalog.revoke_version(DESK, THREE)
    assert not end(catalog, begin(catalog, "another"), THREE, UNDECIDED)
    assert catalog.get_channels(DESK) == {"prod": ONE}


def test_the_share_leaves_other_canaries_theirs(catalog: Catalog) -> None:
    publish(catalog, ONE, VERDICT)
    publish(catalog, TWO, VERDICT)
    catalog.set_channel(DESK, "trial", ONE, 0.75)
    publish(catalog, THREE, UNDECIDED, share=0.5)
    assert routes(catalog) == [("prod", TWO, 0.0), ("canary", THREE, 0.25), ("trial", ONE, 0.75)]


def test_what_an_undecided_version_has_learned_is_new_again_until_prod_leads_back_to_it(catalog: Catalog) -> None:
    publish(catalog, ONE, VERDICT)
    end(catalog, begin(catalog, "b2"), TWO, UNDECIDED)
    again = begin(catalog, "b3")
    assert catalog.get_consolidation(again).batches == ("b2", "b3")
    assert catalog.get_consolidation(again).parent == ONE
    end(catalog, again, THREE, UNDECIDED)
    catalog.set_channel(DESK, "prod", THREE)
    with pytest.raises(InvalidInput, match="no new trajectories"):
        catalog.submit(DESK, base="b", recipe=Recipe())


def test_an_earlier_release_reads_an_undecided_verdict_as_one_that_did_not_pass_and_this_one_reads_its_verdicts() -> (
    None
):
    stored = json.loads(UNDECIDED.model_dump_json())
    assert stored["passed"] is False
    del stored["undecided"], stored["evidence"], stored["earlier_evidence"]
    refused = GateVerdict.model_validate(stored)
    assert (refused.passed, refused.undecided, refused.evidence) == (False, False, None)
