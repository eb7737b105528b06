"""Who claims what, and in which order."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from looper.platform.catalog import TrainingDemand
from looper.platform.domain.consolidation import (
    Consolidation,
    ConsolidationState,
    QueueStage,
    Recipe,
    TrainerShape,
)
from looper.platform.domain.errors import Conflict
from tests.platform.work import VERDICT, Work


def test_a_consolidation_goes_from_worker_to_worker(work: Work) -> None:
    (job,) = work.submit("acme/desk")
    for stage, state in (
        (QueueStage.SYNTHESIS, ConsolidationState.TRAINING),
        (QueueStage.TRAINING, ConsolidationState.EVALUATING),
        (QueueStage.CONCLUSION, ConsolidationState.EVALUATING),
    ):
        for other in set(QueueStage) - {stage}:
            assert work.claim("other", other) == []
        assert work.claim(stage, stage) == ["acme/desk"]
        assert work.claim("other", stage) == []
        work.catalog.hand_over(job.id, stage, state)
        now = work.catalog.consolidation(job.id)
        assert (now.state, now.owner) == (state, None)
        with pytest.raises(Conflict, match=f"consolidation {job.id} was cancelled, has ended, or is held by another"):
            work.catalog.hand_over(job.id, stage, state)
    assert work.events(job) == ["queued with 1 batches", "training", "evaluating", "evaluating"]
    with pytest.raises(ValueError, match="published is not a stage"):
        work.catalog.hand_over(job.id, "me", ConsolidationState.PUBLISHED)


def test_the_oldest_goes_first(work: Work) -> None:
    work.submit("acme/one", "acme/two", "acme/three")
    assert work.claim(limit=2) == ["acme/one", "acme/two"]
    assert work.claim(limit=2) == ["acme/three"]


def test_tenants_take_turns(work: Work) -> None:
    work.submit("acme/a1", "acme/a2", "acme/a3", "acme/a4", "umbrella/u1", "umbrella/u2", "cyberdyne/c1")
    assert work.claim(limit=4) == ["acme/a1", "umbrella/u1", "cyberdyne/c1", "acme/a2"]
    assert work.claim(limit=9) == ["umbrella/u2", "acme/a3", "acme/a4"]


def test_who_has_less_going_on_is_next_whatever_the_age(work: Work) -> None:
    work.submit("acme/a1", "acme/a2")
    assert work.claim() == ["acme/a1", "acme/a2"]
    work.submit("acme/a3", "umbrella/u1", "umbrella/u2", "umbrella/u3")
    # acme has two; with a3 it would be three, as umbrella with u3, which is younger.
    assert work.claim() == ["umbrella/u1", "umbrella/u2", "acme/a3", "umbrella/u3"]


def test_what_is_worked_on_in_another_stage_counts_and_what_a_dead_one_held_does_not(work: Work) -> None:
    work.submit("acme/a1")
    work.claim()
    work.hand_over(ConsolidationState.TRAINING)
    work.claim("trainer", QueueStage.TRAINING)
    work.submit("acme/a2", "umbrella/u1")
    assert work.claim(limit=1) == ["umbrella/u1"]
    work.die("trainer")
    work.submit("umbrella/u2")
    assert work.claim(limit=1) == ["acme/a2"]


def test_a_higher_priority_goes_before_any_lower_one(work: Work) -> None:
    work.submit("acme/low", priority=-1)
    work.submit("acme/usual", "umbrella/usual")
    work.submit("acme/high1", "acme/high2", priority=5)
    assert work.claim() == ["acme/high1", "acme/high2", "umbrella/usual", "acme/usual", "acme/low"]


def test_a_tenants_limit_is_of_each_stage(work: Work) -> None:
    work.submit("acme/a1", "acme/a2", "acme/a3", "umbrella/u1")
    assert work.claim(tenant_limit=2) == ["acme/a1", "umbrella/u1", "acme/a2"]
    assert work.claim("other", tenant_limit=2) == []
    work.hand_over(ConsolidationState.TRAINING)
    # Two may be trained now, and acme/a3 is on its way.
    assert work.catalog.training_demand(tenant_limit=1) == [
        TrainingDemand(base="b", shape=TrainerShape.PLAIN, waiting=3)
    ]
    assert work.claim("trainer", QueueStage.TRAINING, tenant_limit=1) == ["acme/a1", "umbrella/u1"]
    assert work.catalog.training_demand(tenant_limit=1) == [
        TrainingDemand(base="b", shape=TrainerShape.PLAIN, waiting=1)
    ]
    assert work.claim(tenant_limit=2) == ["acme/a3"]


def test_a_trainer_claims_what_it_can_train(work: Work) -> None:
    work.submit("acme/small", recipe=Recipe(rank=4, method="dora"))
    work.submit("acme/large", recipe=Recipe(rank=64))
    work.submit("acme/quantised", recipe=Recipe(method="qlora"))
    work.submit("acme/urgent", base="other", priority=1)
    before = work.catalog.training_demand()
    work.claim()
    work.hand_over(ConsolidationState.TRAINING)
    assert work.catalog.training_demand() == [
        TrainingDemand(base="other", shape=TrainerShape.PLAIN, waiting=1),
        TrainingDemand(base="b", shape=TrainerShape.PLAIN, waiting=2),
        TrainingDemand(base="b", shape=TrainerShape.NF4, waiting=1),
    ]
    assert work.catalog.training_demand() == before, "what waits for synthesis wants a trainer, too"

    def claim(base: str, shape: TrainerShape) -> list[str]:
        jobs = work.catalog.claim("t", QueueStage.TRAINING, base=base, shape=shape, limit=9, lease_s=60)
        return [job.instance.instance for job in jobs]

    assert claim("b", TrainerShape.NF4) == ["quantised"]
    assert claim("b", TrainerShape.NF4) == []
    assert claim("b", TrainerShape.PLAIN) == ["small", "large"]
    assert work.catalog.training_demand() == [TrainingDemand(base="other", shape=TrainerShape.PLAIN, waiting=1)]


def test_an_instances_consolidations_go_one_after_the_other(work: Work) -> None:
    (first,) = work.submit("acme/desk")
    (second,) = work.submit("acme/desk", priority=9)
    (third,) = work.submit("acme/desk")
    assert work.claim() == ["acme/desk"]
    assert work.claim() == []
    work.hand_over(ConsolidationState.TRAINING)
    assert work.claim() == []
    work.claim("me", QueueStage.TRAINING)
    work.hand_over(ConsolidationState.EVALUATING)
    work.claim("me", QueueStage.CONCLUSION)
    work.publish(first, "1" * 64)

    (now,) = work.catalog.claim("me", QueueStage.SYNTHESIS, limit=9, lease_s=60)
    assert (now.id, now.parent) == (second.id, "1" * 64)
    work.catalog.fail(second.id, "me", "no good")
    (now,) = work.catalog.claim("me", QueueStage.SYNTHESIS, limit=9, lease_s=60)
    assert (now.id, now.parent) == (third.id, "1" * 64)


def test_the_parent_is_decided_by_the_first_claim(work: Work) -> None:
    for digest in ("1" * 64, "2" * 64):
        (job,) = work.submit("acme/desk")
        waiting = work.submit("acme/desk") if digest == "2" * 64 else []
        work.claim()
        work.publish(job, digest)
    (job,) = waiting
    assert work.catalog.consolidation(job.id).parent is None
    (claimed,) = work.catalog.claim("me", QueueStage.SYNTHESIS, limit=1, lease_s=60)
    assert claimed.parent == "2" * 64

    # What prod points to by now does not matter any more: training may have begun from the parent.
    work.catalog.release([job.id], "me")
    work.catalog.point(job.instance, "prod", "1" * 64)
    (again,) = work.catalog.claim("me", QueueStage.SYNTHESIS, limit=1, lease_s=60)
    assert (again.parent, again.started_at) == (claimed.parent, claimed.started_at)


def test_times_are_kept(work: Work) -> None:
    published, failed, rejected, cancelled = work.submit("acme/p", "acme/f", "acme/r", "acme/c")
    assert published.started_at is None
    work.claim()
    work.publish(published, "1" * 64)
    work.catalog.fail(failed.id, "me", "no good")
    work.catalog.reject(rejected.id, "me", VERDICT.model_copy(update={"passed": False}))
    work.catalog.cancel(cancelled.id)
    for job in (published, failed, rejected, cancelled):
        ended = work.catalog.consolidation(job.id)
        assert ended.started_at is not None
        assert ended.ended_at is not None
        assert ended.created_at < ended.started_at < ended.ended_at
        assert ended.owner is None


def test_many_claim_at_once_and_each_consolidation_goes_to_one(work: Work) -> None:
    submitted = work.submit(*(f"tenant{number % 5}/i{number}" for number in range(40)))
    start = threading.Barrier(4)

    def claim(owner: str) -> list[list[Consolidation]]:
        claims = []
        start.wait()
        while claimed := work.catalog.claim(owner, QueueStage.SYNTHESIS, limit=3, lease_s=60, tenant_limit=8):
            claims.append(claimed)
        return claims

    with ThreadPoolExecutor(4) as pool:
        claims = [claim for of_one in pool.map(claim, ["a", "b", "c", "d"]) for claim in of_one]
    taken = [job.id for claimed in claims for job in claimed]
    assert len(taken) == len(set(taken))
    assert set(taken) == {job.id for job in submitted}
    for claimed in claims:
        assert all(work.catalog.consolidation(job.id).owner == job.owner for job in claimed)


def test_many_claim_at_once_and_the_tenants_limit_holds(work: Work) -> None:
    work.submit(*(f"acme/i{number}" for number in range(12)))
    start = threading.Barrier(4)

    def claim(owner: str) -> int:
        start.wait()
        return len(work.claim(owner, limit=3, tenant_limit=5))

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(claim, ["a", "b", "c", "d"])) == 5


def test_waiting_is_shared_among_tenants(work: Work) -> None:
    """One tenant submits much and first; nobody's first consolidation waits for the last of that."""
    crowd = [f"big/i{number}" for number in range(30)]
    small = [f"small{number}/only" for number in range(10)]
    work.submit(*crowd, *small)
    order: list[str] = []
    while claimed := work.claim(limit=4):
        order += claimed
        for job in work.catalog.unfinished():
            if job.owner == "me":
                work.catalog.fail(job.id, "me", "the end")
    assert max(order.index(name) for name in small) <= 2 * len(small)
