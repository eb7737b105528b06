"""Order of claiming, limits, and the stages of a consolidation."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from looper.platform.catalog import TrainingDemand
from looper.platform.catalog.claim_order import Place, choose_to_pause, count_claimable_together
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.errors import Conflict
from looper.platform.domain.recipe import Recipe, TrainerShape
from looper.platform.domain.states import ConsolidationState, QueueStage
from tests.platform.queue_harness import VERDICT, QueueHarness


def test_a_consolidation_passes_through_the_stages(queue: QueueHarness) -> None:
    (job,) = queue.submit("acme/desk")
    for stage, state in (
        (QueueStage.SYNTHESIS, ConsolidationState.TRAINING),
        (QueueStage.TRAINING, ConsolidationState.EVALUATING),
        (QueueStage.CONCLUSION, ConsolidationState.EVALUATING),
    ):
        for other_stage in set(QueueStage) - {stage}:
            assert queue.claim("other", other_stage) == []
        assert queue.claim(stage, stage) == ["acme/desk"]
        assert queue.claim("other", stage) == []
        queue.catalog.hand_over(job.id, stage, state)
        current = queue.catalog.get_consolidation(job.id)
        assert (current.state, current.owner) == (state, None)
        with pytest.raises(
            Conflict, match=f"consolidation {job.id} was cancelled, has ended, or was claimed by another"
        ):
            queue.catalog.hand_over(job.id, stage, state)
    assert queue.events(job) == ["queued with 1 batches", "training", "evaluating", "evaluating"]
    with pytest.raises(ValueError, match="published is not the state of a stage"):
        queue.catalog.hand_over(job.id, "me", ConsolidationState.PUBLISHED)


def test_the_oldest_is_claimed_first(queue: QueueHarness) -> None:
    queue.submit("acme/one", "acme/two", "acme/three")
    assert queue.claim(limit=2) == ["acme/one", "acme/two"]
    assert queue.claim(limit=2) == ["acme/three"]


def test_what_a_consolidation_waits_for_is_told_until_it_is_claimed(queue: QueueHarness) -> None:
    (job, _) = queue.submit("acme/desk", "acme/other")
    (claimed,) = queue.claim("me", QueueStage.SYNTHESIS, limit=1)
    assert claimed == "acme/desk"
    queue.catalog.hand_over(job.id, "me", ConsolidationState.TRAINING)

    def explain(reason: str | None, base: str = job.base) -> list[str | None]:
        queue.catalog.explain_wait(reason, base=base, shape=TrainerShape.PLAIN)
        return [one.reason for one in queue.catalog.list_unfinished()]

    assert explain("waits for 1 GPU", base="another") == [None, None]
    assert explain("waits for 1 GPU") == explain("waits for 1 GPU") == ["waits for 1 GPU", None]
    assert queue.events(job)[-2:] == ["training", "waits for 1 GPU"], "once"
    assert explain(None) == [None, None]
    explain("waits for 1 GPU")
    assert queue.claim("trainer", QueueStage.TRAINING) == ["acme/desk"]
    assert [one.reason for one in queue.catalog.list_unfinished()] == [None, None]
    assert explain("waits for 1 GPU") == [None, None], "it is claimed"


def test_tenants_are_claimed_in_turn(queue: QueueHarness) -> None:
    queue.submit("acme/a1", "acme/a2", "acme/a3", "acme/a4", "umbrella/u1", "umbrella/u2", "cyberdyne/c1")
    assert queue.claim(limit=4) == ["acme/a1", "umbrella/u1", "cyberdyne/c1", "acme/a2"]
    assert queue.claim(limit=9) == ["umbrella/u2", "acme/a3", "acme/a4"]


def test_the_tenant_with_fewer_leases_is_claimed_first(queue: QueueHarness) -> None:
    queue.submit("acme/a1", "acme/a2")
    assert queue.claim() == ["acme/a1", "acme/a2"]
    queue.submit("acme/a3", "umbrella/u1", "umbrella/u2", "umbrella/u3")
    # acme has two leases. With a3 it has three, as many as umbrella with u3, and a3 is older than u3.
    assert queue.claim() == ["umbrella/u1", "umbrella/u2", "acme/a3", "umbrella/u3"]


def test_leases_in_other_stages_count_and_expired_leases_do_not(queue: QueueHarness) -> None:
    queue.submit("acme/a1")
    queue.claim()
    queue.hand_over(ConsolidationState.TRAINING)
    queue.claim("trainer", QueueStage.TRAINING)
    queue.submit("acme/a2", "umbrella/u1")
    assert queue.claim(limit=1) == ["umbrella/u1"]
    queue.expire_leases("trainer")
    queue.submit("umbrella/u2")
    assert queue.claim(limit=1) == ["acme/a2"]


def test_higher_priorities_are_claimed_first(queue: QueueHarness) -> None:
    queue.submit("acme/low", priority=-1)
    queue.submit("acme/normal", "umbrella/normal")
    queue.submit("acme/high1", "acme/high2", priority=5)
    assert queue.claim() == ["acme/high1", "acme/high2", "umbrella/normal", "acme/normal", "acme/low"]


def test_the_tenant_limit_applies_to_each_stage(queue: QueueHarness) -> None:
    queue.submit("acme/a1", "acme/a2", "acme/a3", "umbrella/u1")
    assert queue.claim(tenant_limit=2) == ["acme/a1", "umbrella/u1", "acme/a2"]
    assert queue.claim("other", tenant_limit=2) == []
    queue.hand_over(ConsolidationState.TRAINING)
    # Two can be claimed for training now, and acme/a3 is still queued for synthesis.
    assert queue.catalog.list_training_demand(tenant_limit=1) == [
        TrainingDemand(base="b", shape=TrainerShape.PLAIN, waiting=3)
    ]
    assert queue.claim("trainer", QueueStage.TRAINING, tenant_limit=1) == ["acme/a1", "umbrella/u1"]
    assert queue.catalog.list_training_demand(tenant_limit=1) == [
        TrainingDemand(base="b", shape=TrainerShape.PLAIN, waiting=1)
    ]
    assert queue.claim(tenant_limit=2) == ["acme/a3"]


def test_a_trainer_claims_only_its_base_model_and_shape(queue: QueueHarness) -> None:
    queue.submit("acme/small", recipe=Recipe(rank=4, method="dora"))
    queue.submit("acme/large", recipe=Recipe(rank=64))
    queue.submit("acme/quantized", recipe=Recipe(method="qlora"))
    queue.submit("acme/urgent", base="other", priority=1)
    demand_before = queue.catalog.list_training_demand()
    queue.claim()
    queue.hand_over(ConsolidationState.TRAINING)
    assert queue.catalog.list_training_demand() == [
        TrainingDemand(base="other", shape=TrainerShape.PLAIN, waiting=1),
        TrainingDemand(base="b", shape=TrainerShape.PLAIN, waiting=2),
        TrainingDemand(base="b", shape=TrainerShape.NF4, waiting=1),
    ]
    assert queue.catalog.list_training_demand() == demand_before, "consolidations that wait for synthesis also count"

    def claim(base: str, shape: TrainerShape) -> list[str]:
        jobs = queue.catalog.claim("t", QueueStage.TRAINING, base=base, shape=shape, limit=9, lease_s=60)
        return [job.instance.instance for job in jobs]

    assert claim("b", TrainerShape.NF4) == ["quantized"]
    assert claim("b", TrainerShape.NF4) == []
    assert claim("b", TrainerShape.PLAIN) == ["small", "large"]
    assert queue.catalog.list_training_demand() == [TrainingDemand(base="other", shape=TrainerShape.PLAIN, waiting=1)]


def test_consolidations_of_one_instance_run_one_after_the_other(queue: QueueHarness) -> None:
    (first,) = queue.submit("acme/desk")
    (second,) = queue.submit("acme/desk", priority=9)
    (third,) = queue.submit("acme/desk")
    assert queue.claim() == ["acme/desk"]
    assert queue.claim() == []
    queue.hand_over(ConsolidationState.TRAINING)
    assert queue.claim() == []
    queue.claim("me", QueueStage.TRAINING)
    queue.hand_over(ConsolidationState.EVALUATING)
    queue.claim("me", QueueStage.CONCLUSION)
    queue.publish(first, "1" * 64)

    (claimed,) = queue.catalog.claim("me", QueueStage.SYNTHESIS, limit=9, lease_s=60)
    assert (claimed.id, claimed.parent) == (second.id, "1" * 64)
    queue.catalog.fail(second.id, "me", "no good")
    (claimed,) = queue.catalog.claim("me", QueueStage.SYNTHESIS, limit=9, lease_s=60)
    assert (claimed.id, claimed.parent) == (third.id, "1" * 64)


def test_the_first_claim_sets_the_parent(queue: QueueHarness) -> None:
    for digest in ("1" * 64, "2" * 64):
        (job,) = queue.submit("acme/desk")
        waiting = queue.submit("acme/desk") if digest == "2" * 64 else []
        queue.claim()
        queue.publish(job, digest)
    (job,) = waiting
    assert queue.catalog.get_consolidation(job.id).parent is None
    (claimed,) = queue.catalog.claim("me", QueueStage.SYNTHESIS, limit=1, lease_s=60)
    assert claimed.parent == "2" * 64

    # A later change of prod does not change the parent, because training may have started from it.
    queue.catalog.release([job.id], "me")
    queue.catalog.set_channel(job.instance, "prod", "1" * 64)
    (again,) = queue.catalog.claim("me", QueueStage.SYNTHESIS, limit=1, lease_s=60)
    assert (again.parent, again.started_at) == (claimed.parent, claimed.started_at)


def test_start_and_end_times_are_recorded(queue: QueueHarness) -> None:
    published, failed, rejected, cancelled = queue.submit("acme/p", "acme/f", "acme/r", "acme/c")
    assert published.started_at is None
    queue.claim()
    queue.publish(published, "1" * 64)
    queue.catalog.fail(failed.id, "me", "no good")
    queue.catalog.reject(rejected.id, "me", VERDICT.model_copy(update={"passed": False}))
    queue.catalog.cancel(cancelled.id)
    for job in (published, failed, rejected, cancelled):
        ended = queue.catalog.get_consolidation(job.id)
        assert ended.started_at is not None
        assert ended.ended_at is not None
        assert ended.created_at < ended.started_at < ended.ended_at
        assert ended.owner is None


def test_concurrent_claims_lease_each_consolidation_once(queue: QueueHarness) -> None:
    submitted = queue.submit(*(f"tenant{number % 5}/i{number}" for number in range(40)))
    start = threading.Barrier(4)

    def claim(owner: str) -> list[list[Consolidation]]:
        claims = []
        start.wait()
        while claimed := queue.catalog.claim(owner, QueueStage.SYNTHESIS, limit=3, lease_s=60, tenant_limit=8):
            claims.append(claimed)
        return claims

    with ThreadPoolExecutor(4) as pool:
        claims = [claim for owner_claims in pool.map(claim, ["a", "b", "c", "d"]) for claim in owner_claims]
    claimed_ids = [job.id for claimed in claims for job in claimed]
    assert len(claimed_ids) == len(set(claimed_ids))
    assert set(claimed_ids) == {job.id for job in submitted}
    for claimed in claims:
        assert all(queue.catalog.get_consolidation(job.id).owner == job.owner for job in claimed)


def test_concurrent_claims_keep_the_tenant_limit(queue: QueueHarness) -> None:
    queue.submit(*(f"acme/i{number}" for number in range(12)))
    start = threading.Barrier(4)

    def claim(owner: str) -> int:
        start.wait()
        return len(queue.claim(owner, limit=3, tenant_limit=5))

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(claim, ["a", "b", "c", "d"])) == 5


def test_a_tenant_with_many_consolidations_does_not_block_others(queue: QueueHarness) -> None:
    """One tenant submits 30 consolidations first. The other tenants do not wait for all of them."""
    big = [f"big/i{number}" for number in range(30)]
    small = [f"small{number}/only" for number in range(10)]
    queue.submit(*big, *small)
    order: list[str] = []
    while claimed := queue.claim(limit=4):
        order += claimed
        for job in queue.catalog.list_unfinished():
            if job.owner == "me":
                queue.catalog.fail(job.id, "me", "done")
    assert max(order.index(name) for name in small) <= 2 * len(small)


def test_a_tenant_with_all_places_gives_one_to_a_tenant_that_waits(queue: QueueHarness) -> None:
    queue.submit("acme/a1", "acme/a2", "acme/a3")
    queue.claim()
    queue.hand_over(ConsolidationState.TRAINING)
    held = queue.catalog.claim("trainer", QueueStage.TRAINING, limit=9, lease_s=60)
    held_s = {job.id: 10.0 + number for number, job in enumerate(held)}

    def choose(max_wait_s: float) -> str | None:
        return queue.catalog.choose_to_pause(held_s, base="b", shape=TrainerShape.PLAIN, max_wait_s=max_wait_s)

    assert choose(0) is None, "nobody waits"
    queue.submit("acme/a4")
    queue.claim()
    queue.hand_over(ConsolidationState.TRAINING)
    assert choose(0) is None, "only the same tenant waits"
    queue.submit("umbrella/u1")
    queue.claim()
    queue.hand_over(ConsolidationState.TRAINING)
    assert choose(5) is None, "it has not waited long enough"
    assert choose(0) == held[-1].id, "the one that has had its place longest"
    queue.catalog.release([held[-1].id], "trainer")
    assert queue.claim("trainer", QueueStage.TRAINING, limit=1) == ["umbrella/u1"]


def test_places_are_balanced_between_tenants_and_change_no_more_often_than_needed() -> None:
    def place(name: str, priority: int = 0, held_s: float = 60) -> Place:
        return Place(name, name[0], priority, held_s)

    a, b, c = place("a"), place("b"), place("c")
    many = [place("a1"), place("a2", held_s=90), place("b1", held_s=99)]
    assert choose_to_pause([c], many, 60) == "a2"
    assert choose_to_pause([b], many, 60) is None, "with one more each, b would have the most"
    assert choose_to_pause([b], [*many, place("a3")], 60) == "a2"
    assert choose_to_pause([c], [a, b], 60) in ("a", "b"), "with fewer places than tenants, they take turns"
    assert choose_to_pause([c], [a, b], 61) is None, "each keeps its place for some time"
    assert choose_to_pause([c], [place("a", priority=1)], 60) is None, "not to a lower priority"
    assert choose_to_pause([place("a9")], [a, place("a2")], 60) is None


@pytest.mark.parametrize(
    ("waiting", "leased", "max_attempts", "count"),
    [
        ([0, 0, 1, 0], [1], 5, 4),
        ([0, 2, 0], [1], 5, 1),
        ([2, 0], [], 5, 1),
        ([2, 0], [1], 5, 0),
        ([0], [3], 5, 0),
        ([0, 1], [], 2, 1),
    ],
)
def test_suspects_run_alone(waiting: list[int], leased: list[int], max_attempts: int, count: int) -> None:
    """After two trainers that died without a checkpoint, and at the last attempt at the latest."""
    assert count_claimable_together(waiting, leased, max_attempts) == count
