"""Leases: renewal, expiry, release, and the training attempts of a consolidation."""

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from looper.platform.domain.consolidation import Consolidation, TrainingProgress
from looper.platform.domain.errors import Conflict
from looper.platform.domain.states import ConsolidationState, QueueStage
from tests.platform.queue_harness import VERDICT, QueueHarness


def test_heartbeats_renew_leases_and_change_nothing_else(queue: QueueHarness) -> None:
    one, two, three = queue.submit("acme/one", "acme/two", "acme/three")
    queue.claim(limit=2)
    before = queue.catalog.get_consolidation(one.id)
    assert queue.catalog.heartbeat([one.id, two.id, three.id], "me", lease_s=60) == {one.id, two.id}
    assert queue.catalog.get_consolidation(one.id) == before
    assert queue.catalog.heartbeat([], "me", lease_s=60) == set()


def test_an_expired_lease_is_claimed_again_and_the_old_owner_cannot_write(queue: QueueHarness) -> None:
    (job,) = queue.submit("acme/desk")
    queue.claim("dead")
    queue.catalog.advance(job.id, "dead", ConsolidationState.SYNTHESISING)
    assert queue.claim("next") == []
    queue.expire_leases("dead")
    assert queue.claim("next") == ["acme/desk"]
    assert queue.catalog.get_consolidation(job.id).state is ConsolidationState.SYNTHESISING
    with pytest.raises(Conflict, match="was claimed by another worker"):
        queue.catalog.hand_over(job.id, "dead", ConsolidationState.TRAINING)
    with pytest.raises(Conflict, match="was claimed by another worker"):
        queue.catalog.publish(job.id, "dead", digest="d" * 64, verdict=VERDICT, base_revision="r")
    assert queue.catalog.list_versions(job.instance) == []
    assert queue.catalog.heartbeat([job.id], "dead", lease_s=60) == set()
    assert queue.catalog.heartbeat([job.id], "next", lease_s=60) == {job.id}


def test_a_lease_expires_unless_it_is_renewed(queue: QueueHarness) -> None:
    queue.submit("acme/kept", "acme/lost")
    kept, lost = queue.catalog.claim("me", QueueStage.SYNTHESIS, limit=2, lease_s=0.2)
    assert queue.catalog.heartbeat([kept.id], "me", lease_s=60) == {kept.id}
    time.sleep(0.3)  # This test is about the expiry itself.
    assert queue.claim("next") == ["acme/lost"]
    assert queue.catalog.heartbeat([kept.id, lost.id], "me", lease_s=60) == {kept.id}


def test_released_consolidations_are_claimed_again_in_the_same_stage(queue: QueueHarness) -> None:
    (job,) = queue.submit("acme/desk")
    queue.claim("one")
    queue.catalog.advance(job.id, "one", ConsolidationState.TRAINING)
    queue.catalog.release([job.id], "two")
    assert queue.claim("two", QueueStage.TRAINING) == []
    queue.catalog.release([job.id], "one")
    assert queue.claim("two", QueueStage.TRAINING) == ["acme/desk"]


def test_training_attempts_are_counted_since_the_last_checkpoint(queue: QueueHarness) -> None:
    (job,) = queue.submit("acme/desk")
    queue.claim()
    queue.catalog.release([job.id], "me")
    queue.claim()
    queue.hand_over(ConsolidationState.TRAINING)

    def attempts() -> int:
        return queue.catalog.get_consolidation(job.id).attempts

    assert attempts() == 0, "synthesis does not count"
    queue.claim("one", QueueStage.TRAINING)
    queue.catalog.release([job.id], "one")
    assert attempts() == 0, "an attempt that ends with a clean release does not count"
    queue.claim("one", QueueStage.TRAINING)
    queue.catalog.release([job.id], "one", crashed=True)
    queue.claim("two", QueueStage.TRAINING)
    queue.expire_leases("two")
    queue.claim("three", QueueStage.TRAINING)
    assert attempts() == 3
    assert queue.events(job)[-2:] == ["its trainer died: attempt 2", "its trainer died: attempt 3"]
    queue.catalog.report_progress(job.id, "three", TrainingProgress(step=1, steps=9))
    assert attempts() == 3
    queue.catalog.report_progress(job.id, "three", TrainingProgress(step=2, steps=9), checkpointed=True)
    assert attempts() == 1


def test_the_last_attempt_at_a_consolidation_runs_alone(queue: QueueHarness) -> None:
    queue.submit("acme/first", "acme/suspect", "acme/last")
    queue.claim()
    queue.hand_over(ConsolidationState.TRAINING)

    def claim(owner: str) -> list[str]:
        jobs = queue.catalog.claim(owner, QueueStage.TRAINING, limit=9, lease_s=60, max_attempts=2)
        return [job.instance.instance for job in jobs]

    suspect = next(job for job in queue.catalog.list_unfinished() if job.instance.instance == "suspect")
    assert claim("one") == ["first", "suspect", "last"]
    queue.catalog.release([suspect.id], "one", crashed=True)
    queue.catalog.release([job.id for job in queue.catalog.list_unfinished()], "one")
    assert claim("one") == ["first"], "suspect is not claimed together with others"
    assert claim("one") == [], "suspect is next, and waits for an owner without leases"
    assert claim("other") == ["suspect"]
    assert claim("other") == []
    assert claim("one") == ["last"]


def test_a_cancelled_consolidation_cannot_be_handed_over(queue: QueueHarness) -> None:
    (job,) = queue.submit("acme/desk")
    queue.claim()
    queue.catalog.cancel(job.id)
    with pytest.raises(Conflict):
        queue.catalog.hand_over(job.id, "me", ConsolidationState.TRAINING)
    assert queue.catalog.get_consolidation(job.id).state is ConsolidationState.CANCELLED
    assert queue.claim("other", QueueStage.TRAINING) == []


def test_no_consolidation_is_lost_when_workers_die(queue: QueueHarness) -> None:
    """Claims, heartbeats, hand-overs, cancellations and dying workers, all at the same time."""
    submitted = queue.submit(*(f"tenant{number % 3}/i{number}" for number in range(24)))
    queue.catalog.cancel(submitted[0].id)
    next_state = {QueueStage.SYNTHESIS: ConsolidationState.TRAINING, QueueStage.TRAINING: ConsolidationState.EVALUATING}
    ended: list[str] = []

    def process(owner: str, job: Consolidation, stage: QueueStage, rng: random.Random) -> None:
        if rng.random() < 0.2:
            return  # The worker dies and its lease expires.
        assert queue.catalog.heartbeat([job.id], owner, lease_s=0.3) <= {job.id}
        if stage in next_state:
            queue.catalog.hand_over(job.id, owner, next_state[stage])
        else:
            queue.catalog.fail(job.id, owner, "done")
            ended.append(job.id)

    def run(number: int) -> None:
        rng, owner, deadline = random.Random(number), f"w{number}", time.monotonic() + 60
        while queue.catalog.list_unfinished() and time.monotonic() < deadline:
            stage = rng.choice(list(QueueStage))
            for job in queue.catalog.claim(owner, stage, limit=4, lease_s=0.3):
                try:
                    process(owner, job, stage, rng)
                except Conflict:
                    continue

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(4)))
    assert Counter(ended) == Counter(job.id for job in submitted[1:])


def test_more_ids_are_looked_up_than_a_statement_takes(queue: QueueHarness) -> None:
    """A worker asks for each consolidation that has checkpoints, and they may be many."""
    ended, running = queue.submit("acme/one", "acme/two")
    queue.catalog.cancel(ended.id)
    others = [f"{number:032x}" for number in range(70_000)]
    assert queue.catalog.filter_ended([*others, running.id, ended.id]) == [ended.id]
    assert queue.catalog.filter_ended([]) == []
