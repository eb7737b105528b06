"""Who holds a consolidation and may write to it, and what becomes of it when they are gone."""

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from looper.platform.domain.consolidation import (
    Consolidation,
    ConsolidationState,
    QueueStage,
    TrainingProgress,
)
from looper.platform.domain.errors import Conflict
from tests.platform.work import VERDICT, Work


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
    work.catalog.advance(job.id, "dead", ConsolidationState.SYNTHESISING)
    assert work.claim("heir") == []
    work.die("dead")
    assert work.claim("heir") == ["acme/desk"]
    assert work.catalog.consolidation(job.id).state is ConsolidationState.SYNTHESISING
    with pytest.raises(Conflict, match="held by another"):
        work.catalog.hand_over(job.id, "dead", ConsolidationState.TRAINING)
    with pytest.raises(Conflict, match="held by another"):
        work.catalog.publish(job.id, "dead", digest="d" * 64, verdict=VERDICT, base_revision="r")
    assert work.catalog.versions(job.instance) == []
    assert work.catalog.heartbeat([job.id], "dead", lease_s=60) == set()
    assert work.catalog.heartbeat([job.id], "heir", lease_s=60) == {job.id}


def test_a_lease_runs_out_unless_it_is_renewed(work: Work) -> None:
    work.submit("acme/kept", "acme/lost")
    kept, lost = work.catalog.claim("me", QueueStage.SYNTHESIS, limit=2, lease_s=0.2)
    assert work.catalog.heartbeat([kept.id], "me", lease_s=60) == {kept.id}
    time.sleep(0.3)  # the lease itself is what is tested
    assert work.claim("heir") == ["acme/lost"]
    assert work.catalog.heartbeat([kept.id, lost.id], "me", lease_s=60) == {kept.id}


def test_released_work_is_claimed_at_once_where_it_was(work: Work) -> None:
    (job,) = work.submit("acme/desk")
    work.claim("one")
    work.catalog.advance(job.id, "one", ConsolidationState.TRAINING)
    work.catalog.release([job.id], "two")
    assert work.claim("two", QueueStage.TRAINING) == []
    work.catalog.release([job.id], "one")
    assert work.claim("two", QueueStage.TRAINING) == ["acme/desk"]


def test_attempts_at_training_are_counted_since_the_last_checkpoint(work: Work) -> None:
    (job,) = work.submit("acme/desk")
    work.claim()
    work.catalog.release([job.id], "me")
    work.claim()
    work.hand_over(ConsolidationState.TRAINING)

    def attempts() -> int:
        return work.catalog.consolidation(job.id).attempts

    assert attempts() == 0, "synthesis is none"
    work.claim("one", QueueStage.TRAINING)
    work.catalog.release([job.id], "one")
    assert attempts() == 0, "what is given back in order is none"
    work.claim("one", QueueStage.TRAINING)
    work.catalog.release([job.id], "one", died=True)
    work.claim("two", QueueStage.TRAINING)
    work.die("two")
    work.claim("three", QueueStage.TRAINING)
    assert attempts() == 3
    assert work.events(job)[-2:] == ["its trainer died: attempt 2", "its trainer died: attempt 3"]
    work.catalog.progress(job.id, "three", TrainingProgress(step=1, steps=9))
    assert attempts() == 3
    work.catalog.progress(job.id, "three", TrainingProgress(step=2, steps=9), saved=True)
    assert attempts() == 1


def test_who_makes_the_last_attempt_at_one_has_nothing_else(work: Work) -> None:
    work.submit("acme/first", "acme/suspect", "acme/last")
    work.claim()
    work.hand_over(ConsolidationState.TRAINING)

    def claim(owner: str) -> list[str]:
        jobs = work.catalog.claim(owner, QueueStage.TRAINING, limit=9, lease_s=60, attempts=2)
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
        work.catalog.hand_over(job.id, "me", ConsolidationState.TRAINING)
    assert work.catalog.consolidation(job.id).state is ConsolidationState.CANCELLED
    assert work.claim("other", QueueStage.TRAINING) == []


def test_workers_that_come_and_go_lose_nothing(work: Work) -> None:
    """Claimers, heartbeats, hand-overs, dying holders and cancellations, all at once."""
    submitted = work.submit(*(f"tenant{number % 3}/i{number}" for number in range(24)))
    work.catalog.cancel(submitted[0].id)
    following = {QueueStage.SYNTHESIS: ConsolidationState.TRAINING, QueueStage.TRAINING: ConsolidationState.EVALUATING}
    ended: list[str] = []

    def go_on(owner: str, job: Consolidation, stage: QueueStage, chance: random.Random) -> None:
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
            stage = chance.choice(list(QueueStage))
            for job in work.catalog.claim(owner, stage, limit=4, lease_s=0.3):
                try:
                    go_on(owner, job, stage, chance)
                except Conflict:
                    continue

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(4)))
    assert Counter(ended) == Counter(job.id for job in submitted[1:])
