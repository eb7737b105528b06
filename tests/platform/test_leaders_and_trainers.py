"""The rows of control loops and trainers: who leads, which trainer may go on, and when one is started again."""

import time
from concurrent.futures import ThreadPoolExecutor

from looper.platform.domain.recipe import TrainerShape
from tests.platform.queue_harness import QueueHarness

PLAIN = TrainerShape.PLAIN


def test_one_control_loop_leads_until_it_resigns(queue: QueueHarness) -> None:
    catalog = queue.catalog
    assert catalog.get_leader() is None
    assert catalog.lead("one", lease_s=60)
    assert not catalog.lead("two", lease_s=60)
    assert catalog.lead("one", lease_s=60), "it renews its lease"
    leader = catalog.get_leader()
    assert leader is not None
    assert leader.holder == "one"
    catalog.resign("two")
    assert not catalog.lead("two", lease_s=60), "only the leader can resign"
    catalog.resign("one")
    assert catalog.get_leader() is None
    assert catalog.lead("two", lease_s=60)


def test_a_leader_that_is_silent_is_replaced_and_learns_of_it(queue: QueueHarness) -> None:
    assert queue.catalog.lead("dead", lease_s=0.05)
    time.sleep(0.1)  # This test is about the expiry itself.
    assert queue.catalog.get_leader() is None
    assert queue.catalog.lead("next", lease_s=60)
    assert not queue.catalog.lead("dead", lease_s=60)


def test_of_many_that_want_to_lead_at_once_one_does(queue: QueueHarness) -> None:
    names = [f"loop-{number}" for number in range(8)]
    with ThreadPoolExecutor(len(names)) as pool:
        led = list(pool.map(lambda name: queue.catalog.lead(name, lease_s=60), names))
    assert led.count(True) == 1


def test_a_trainer_goes_on_until_it_is_told_to_stop_or_forgotten(queue: QueueHarness) -> None:
    catalog = queue.catalog
    assert not catalog.may_go_on("nobody")
    catalog.add_trainer("first", "queue-1", "b", PLAIN)
    catalog.add_trainer("second", "queue-2", "b", PLAIN)
    assert not catalog.is_trainer_ready("first")
    catalog.report_trainer_ready("first", "10.0.0.5")
    assert catalog.is_trainer_ready("first")
    assert catalog.may_go_on("first")
    catalog.stop_trainers("queue-1")
    assert not catalog.may_go_on("first")
    assert catalog.may_go_on("second")
    catalog.remove_trainer("first")
    (second,) = catalog.list_trainers()
    assert (second.name, second.node, second.is_stopping) == ("second", None, False)
    catalog.forget_trainers()
    assert not catalog.may_go_on("second"), "another control loop leads"


def test_suspects_are_kept_with_their_trainer(queue: QueueHarness) -> None:
    catalog = queue.catalog
    catalog.set_suspects("nobody", ["a"])
    assert catalog.get_suspects("nobody") is None
    catalog.add_trainer("first", "queue", "b", PLAIN)
    assert catalog.get_suspects("first") is None
    catalog.set_suspects("first", ["a", "b"])
    assert catalog.get_suspects("first") == ["a", "b"]


def test_trainers_that_nobody_hears_of_are_forgotten(queue: QueueHarness) -> None:
    queue.catalog.add_trainer("silent", "queue", "b", PLAIN)
    queue.catalog.remove_silent_trainers(60)
    assert len(queue.catalog.list_trainers()) == 1
    queue.catalog.remove_silent_trainers(-1)
    assert queue.catalog.list_trainers() == []


def test_a_trainer_that_cannot_start_waits_twice_as_long_each_time(queue: QueueHarness) -> None:
    catalog = queue.catalog
    failures = [
        catalog.record_trainer_failure("b", PLAIN, f"reason {number}", delay_s=2, max_delay_s=10) for number in range(5)
    ]
    assert [round((each.retry_at - each.failed_at).total_seconds()) for each in failures] == [2, 4, 8, 10, 10]
    (stored,) = catalog.list_trainer_failures()
    assert (stored.failures, stored.reason) == (5, "reason 4")
    catalog.record_trainer_failure("other", PLAIN, "reason", delay_s=2, max_delay_s=10)
    catalog.add_trainer("good", "queue", "b", PLAIN)
    catalog.report_trainer_ready("good", "node")
    assert [each.base for each in catalog.list_trainer_failures()] == ["other"], "a trainer of this kind has started"
    catalog.forget_trainers()
    assert catalog.list_trainer_failures() == []


def test_the_latest_report_of_a_cluster_is_kept(queue: QueueHarness) -> None:
    catalog = queue.catalog
    assert catalog.get_cluster_report("looper") is None
    catalog.save_cluster_report("looper", {"nodes": 1})
    catalog.save_cluster_report("looper", {"nodes": 2})
    found = catalog.get_cluster_report("looper")
    assert found is not None
    assert found[0] == {"nodes": 2}
    assert abs((catalog.now() - found[1]).total_seconds()) < 60
    catalog.delete_cluster_report("looper")
    assert catalog.get_cluster_report("looper") is None
