"""Who claims what, in which order, and who may write to it then."""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from looper.platform.catalog import Catalog, Demand
from looper.platform.domain.consolidation import (
    Consolidation,
    Progress,
    Recipe,
    Scores,
    Stage,
    State,
    TrainerShape,
    Verdict,
)
from looper.platform.domain.errors import Conflict
from looper.platform.domain.names import InstanceName
from looper.platform.settings import Settings

SCORES = Scores(accuracy=0.5, loss=1.0, actions=4, tokens=40)
VERDICT = Verdict(passed=True, reason="better", candidate=SCORES, current=SCORES)


class Work:
    """A queue, and short words for what is done to it."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.batches = 0

    def submit(
        self, *names: str, base: str = "b", recipe: Recipe | None = None, priority: int = 0
    ) -> list[Consolidation]:
        jobs = []
        for name in names:
            instance = InstanceName.parse(name)
            if instance.tenant not in self.catalog.tenants():
                self.catalog.create_tenant(instance.tenant)
            self.catalog.ensure_instance(instance)
            self.batches += 1
            self.catalog.add_batch(instance, f"b{self.batches}", source="x", trajectories=1)
            jobs.append(self.catalog.submit(instance, base=base, recipe=recipe or Recipe(), priority=priority))
        return jobs

    def claim(
        self,
        owner: str = "me",
        stage: Stage = Stage.SYNTHESIS,
        *,
        limit: int = 99,
        tenant_limit: int | None = None,
    ) -> list[str]:
        """The instances of what was claimed, in order."""
        jobs = self.catalog.claim(owner, stage, limit=limit, lease_s=60, tenant_limit=tenant_limit)
        return [str(job.instance) for job in jobs]

    def hand_over(self, state: State, owner: str = "me") -> None:
        for job in self.catalog.unfinished():
            if job.owner == owner:
                self.catalog.hand_over(job.id, owner, state)

    def die(self, owner: str) -> None:
        """Let the leases of ``owner`` run out."""
        self.catalog.heartbeat([job.id for job in self.catalog.unfinished()], owner, lease_s=-1)

    def publish(self, job: Consolidation, digest: str, owner: str = "me") -> None:
        assert self.catalog.publish(job.id, owner, digest=digest, verdict=VERDICT, base_revision="r")

    def events(self, job: Consolidation) -> list[str]:
        return [event.what for event in self.catalog.events(consolidation=job.id)]


@pytest.fixture
def work(catalog_settings: Settings) -> Iterator[Work]:
    with closing(Catalog.open(catalog_settings)) as catalog:
        yield Work(catalog)


def test_a_consolidation_goes_from_worker_to_worker(work: Work) -> None:
    (job,) = work.submit("acme/desk")
    for stage, state in (
        (Stage.SYNTHESIS, State.TRAINING),
        (Stage.TRAINING, State.EVALUATING),
        (Stage.CONCLUSION, State.EVALUATING),
    ):
        for other in set(Stage) - {stage}:
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
        work.catalog.hand_over(job.id, "me", State.PUBLISHED)


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
    work.hand_over(State.TRAINING)
    work.claim("trainer", Stage.TRAINING)
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
    work.hand_over(State.TRAINING)
    # Two may be trained now, and acme/a3 is on its way.
    assert work.catalog.training_demand(tenant_limit=1) == [Demand(base="b", shape=TrainerShape.PLAIN, waiting=3)]
    assert work.claim("trainer", Stage.TRAINING, tenant_limit=1) == ["acme/a1", "umbrella/u1"]
    assert work.catalog.training_demand(tenant_limit=1) == [Demand(base="b", shape=TrainerShape.PLAIN, waiting=1)]
    assert work.claim(tenant_limit=2) == ["acme/a3"]


def test_a_trainer_claims_what_it_can_train(work: Work) -> None:
    work.submit("acme/small", recipe=Recipe(rank=4, method="dora"))
    work.submit("acme/large", recipe=Recipe(rank=64))
    work.submit("acme/quantised", recipe=Recipe(method="qlora"))
    work.submit("acme/urgent", base="other", priority=1)
    before = work.catalog.training_demand()
    work.claim()
    work.hand_over(State.TRAINING)
    assert work.catalog.training_demand() == [
        Demand(base="other", shape=TrainerShape.PLAIN, waiting=1),
        Demand(base="b", shape=TrainerShape.PLAIN, waiting=2),
        Demand(base="b", shape=TrainerShape.NF4, waiting=1),
    ]
    assert work.catalog.training_demand() == before, "what waits for synthesis wants a trainer, too"

    def claim(base: str, shape: TrainerShape) -> list[str]:
        jobs = work.catalog.claim("t", Stage.TRAINING, base=base, shape=shape, limit=9, lease_s=60)
        return [job.instance.instance for job in jobs]

    assert claim("b", TrainerShape.NF4) == ["quantised"]
    assert claim("b", TrainerShape.NF4) == []
    assert claim("b", TrainerShape.PLAIN) == ["small", "large"]
    assert work.catalog.training_demand() == [Demand(base="other", shape=TrainerShape.PLAIN, waiting=1)]


def test_an_instances_consolidations_go_one_after_the_other(work: Work) -> None:
    (first,) = work.submit("acme/desk")
    (second,) = work.submit("acme/desk", priority=9)
    (third,) = work.submit("acme/desk")
    assert work.claim() == ["acme/desk"]
    assert work.claim() == []
    work.hand_over(State.TRAINING)
    assert work.claim() == []
    work.claim("me", Stage.TRAINING)
    work.hand_over(State.EVALUATING)
    work.claim("me", Stage.CONCLUSION)
    work.publish(first, "1" * 64)

    (now,) = work.catalog.claim("me", Stage.SYNTHESIS, limit=9, lease_s=60)
    assert (now.id, now.parent) == (second.id, "1" * 64)
    work.catalog.fail(second.id, "me", "no good")
    (now,) = work.catalog.claim("me", Stage.SYNTHESIS, limit=9, lease_s=60)
    assert (now.id, now.parent) == (third.id, "1" * 64)


def test_the_parent_is_decided_by_the_first_claim(work: Work) -> None:
    for digest in ("1" * 64, "2" * 64):
        (job,) = work.submit("acme/desk")
        waiting = work.submit("acme/desk") if digest == "2" * 64 else []
        work.claim()
        work.publish(job, digest)
    (job,) = waiting
    assert work.catalog.consolidation(job.id).parent is None
    (claimed,) = work.catalog.claim("me", Stage.SYNTHESIS, limit=1, lease_s=60)
    assert claimed.parent == "2" * 64

    # What prod points to by now does not matter any more: training may have begun from the parent.
    work.catalog.release([job.id], "me")
    work.catalog.point(job.instance, "prod", "1" * 64)
    (again,) = work.catalog.claim("me", Stage.SYNTHESIS, limit=1, lease_s=60)
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


def test_heartbeats_renew_leases_and_are_no_change(work: Work) -> None:
    one, two, three = work.submit("acme/one", "acme/two", "acme/three")
    work.claim(limit=2)
    held = work.catalog.consolidation(one.id)
    assert work.catalog.heartbeat([one.id, two.id, three.id], "me", lease_s=60) == {one.id, two.id}
    assert work.catalog.consolidation(one.id) == held
    assert work.catalog.heartbeat([], "me", lease_s=60) == set()


def test_what_a_dead_process_held_is_claimed_again_and_its_writes_are_refused(work: Work) -> None:
    (job,) = work.submit("acme/desk")
    work.claim("dead")
    work.catalog.advance(job.id, "dead", State.SYNTHESISING)
    assert work.claim("heir") == []
    work.die("dead")
    assert work.claim("heir") == ["acme/desk"]
    assert work.catalog.consolidation(job.id).state is State.SYNTHESISING
    with pytest.raises(Conflict, match="held by another"):
        work.catalog.hand_over(job.id, "dead", State.TRAINING)
    with pytest.raises(Conflict, match="held by another"):
        work.catalog.publish(job.id, "dead", digest="d" * 64, verdict=VERDICT, base_revision="r")
    assert work.catalog.versions(job.instance) == []
    assert work.catalog.heartbeat([job.id], "dead", lease_s=60) == set()
    assert work.catalog.heartbeat([job.id], "heir", lease_s=60) == {job.id}


def test_a_lease_runs_out_unless_it_is_renewed(work: Work) -> None:
    work.submit("acme/kept", "acme/lost")
    kept, lost = work.catalog.claim("me", Stage.SYNTHESIS, limit=2, lease_s=0.2)
    assert work.catalog.heartbeat([kept.id], "me", lease_s=60) == {kept.id}
    time.sleep(0.3)  # the lease itself is what is tested
    assert work.claim("heir") == ["acme/lost"]
    assert work.catalog.heartbeat([kept.id, lost.id], "me", lease_s=60) == {kept.id}


def test_released_work_is_claimed_at_once_where_it_was(work: Work) -> None:
    (job,) = work.submit("acme/desk")
    work.claim("one")
    work.catalog.advance(job.id, "one", State.TRAINING)
    work.catalog.release([job.id], "two")
    assert work.claim("two", Stage.TRAINING) == []
    work.catalog.release([job.id], "one")
    assert work.claim("two", Stage.TRAINING) == ["acme/desk"]


def test_attempts_at_training_are_counted_since_the_last_checkpoint(work: Work) -> None:
    (job,) = work.submit("acme/desk")
    work.claim()
    work.catalog.release([job.id], "me")
    work.claim()
    work.hand_over(State.TRAINING)

    def attempts() -> int:
        return work.catalog.consolidation(job.id).attempts

    assert attempts() == 0, "synthesis is none"
    work.claim("one", Stage.TRAINING)
    work.catalog.release([job.id], "one")
    assert attempts() == 0, "what is given back in order is none"
    work.claim("one", Stage.TRAINING)
    work.catalog.release([job.id], "one", died=True)
    work.claim("two", Stage.TRAINING)
    work.die("two")
    work.claim("three", Stage.TRAINING)
    assert attempts() == 3
    assert work.events(job)[-2:] == ["its trainer died: attempt 2", "its trainer died: attempt 3"]
    work.catalog.progress(job.id, "three", Progress(step=1, steps=9))
    assert attempts() == 3
    work.catalog.progress(job.id, "three", Progress(step=2, steps=9), saved=True)
    assert attempts() == 1


def test_who_makes_the_last_attempt_at_one_has_nothing_else(work: Work) -> None:
    work.submit("acme/first", "acme/suspect", "acme/last")
    work.claim()
    work.hand_over(State.TRAINING)

    def claim(owner: str) -> list[str]:
        jobs = work.catalog.claim(owner, Stage.TRAINING, limit=9, lease_s=60, attempts=2)
        return [job.instance.instance for job in jobs]

    suspect = next(job for job in work.catalog.unfinished() if job.instance.instance == "suspect")
    assert claim("one") == ["first", "suspect", "last"]
    work.catalog.release([suspect.id], "one", died=True)
    work.catalog.release([job.id for job in work.catalog.unfinished()], "one")
    assert claim("one") == ["first"], "it ends the claim"
    assert claim("one") == [], "it is the next, and waits until its trainer has nothing else"
    assert claim("other") == ["suspect"]
    assert claim("other") == []
    assert claim("one") == ["last"]


def test_a_cancelled_one_is_not_handed_over(work: Work) -> None:
    (job,) = work.submit("acme/desk")
    work.claim()
    work.catalog.cancel(job.id)
    with pytest.raises(Conflict):
        work.catalog.hand_over(job.id, "me", State.TRAINING)
    assert work.catalog.consolidation(job.id).state is State.CANCELLED
    assert work.claim("other", Stage.TRAINING) == []


def test_many_claim_at_once_and_each_consolidation_goes_to_one(work: Work) -> None:
    submitted = work.submit(*(f"tenant{number % 5}/i{number}" for number in range(40)))
    start = threading.Barrier(4)

    def claim(owner: str) -> list[list[Consolidation]]:
        claims = []
        start.wait()
        while claimed := work.catalog.claim(owner, Stage.SYNTHESIS, limit=3, lease_s=60, tenant_limit=8):
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


def test_workers_that_come_and_go_lose_nothing(work: Work) -> None:
    """Claimers, heartbeats, hand-overs, dying holders and cancellations, all at once."""
    submitted = work.submit(*(f"tenant{number % 3}/i{number}" for number in range(24)))
    work.catalog.cancel(submitted[0].id)
    following = {Stage.SYNTHESIS: State.TRAINING, Stage.TRAINING: State.EVALUATING}
    ended: list[str] = []

    def go_on(owner: str, job: Consolidation, stage: Stage, chance: random.Random) -> None:
        if chance.random() < 0.2:
            return  # it dies, its lease runs out
        assert work.catalog.heartbeat([job.id], owner, lease_s=0.3) <= {job.id}
        if stage in following:
            work.catalog.hand_over(job.id, owner, following[stage])
        else:
            work.catalog.fail(job.id, owner, "the end")
            ended.append(job.id)

    def run(number: int) -> None:
        chance, owner, over = random.Random(number), f"w{number}", time.monotonic() + 60
        while work.catalog.unfinished() and time.monotonic() < over:
            stage = chance.choice(list(Stage))
            for job in work.catalog.claim(owner, stage, limit=4, lease_s=0.3):
                try:
                    go_on(owner, job, stage, chance)
                except Conflict:
                    continue

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(4)))
    assert Counter(ended) == Counter(job.id for job in submitted[1:])


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
