"""Which held-out tasks a candidate is asked, from a real catalog and store."""

from collections.abc import Sequence

import pytest

from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.data.window_table import ExampleWindow, WindowTable, write_windows
from looper.jobs.consolidation.evaluation.heldout import (
    MAX_EARLIER_TOKENS,
    MAX_NEW_TOKENS,
    MAX_SESSIONS,
    HeldOutQuestions,
    gather_heldout,
    take_turns,
)
from looper.jobs.consolidation.evaluation.high_water_marks import HighWaterMarks
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.names import InstanceName
from looper.platform.domain.scores import GateVerdict, Scores, TaskCounts
from looper.platform.domain.states import QueueStage
from looper.platform.objectstore import ObjectStore, keys
from tests.jobs.episodes import RECIPE, episode, ingest

REVISION = "r"
SCORES = Scores(accuracy=0.5, loss=1.0, actions=4, tokens=40)
VERDICT = GateVerdict(passed=True, reason="better", candidate=SCORES, current=SCORES)


def example(task: str, *, tokens: int = 10, windows: int = 1) -> list[ExampleWindow]:
    window = Window.of([1] * tokens, [1.0] * tokens)
    return [ExampleWindow(window, f"example of {task}", task, "[]")] * windows


def tasks(asked: Sequence[ExampleWindow]) -> list[str]:
    return sorted(each.task_id for each in asked)


def gather(job: Consolidation, queue: "Queue") -> HeldOutQuestions:
    questions, left_out = gather_heldout(job, queue.catalog, queue.store, REVISION)
    assert left_out == {}
    return questions


class Queue:
    """Consolidations, taken up to where they are trained, or published, with the given examples."""

    def __init__(self, catalog: Catalog, store: ObjectStore) -> None:
        self.catalog, self.store, self.count = catalog, store, 0

    def claimed(
        self, name: str, holdout: Sequence[list[ExampleWindow]], train: Sequence[str] = (), base: str = "b"
    ) -> Consolidation:
        self.count += 1
        instance = InstanceName.parse(name)
        ingest(self.catalog, self.store, instance, [episode(1)], f"batch-{self.count}")
        self.catalog.submit(instance, base=base, recipe=RECIPE)
        (job,) = self.catalog.claim("me", QueueStage.SYNTHESIS, limit=1, lease_s=60)
        for part, examples in (("train", [example(task) for task in train]), ("holdout", holdout)):
            rows = [row for each in examples for row in each]
            self.store.put(keys.examples(job.id, f"{part}.windows.parquet"), write_windows(WindowTable(rows, REVISION)))
        return job

    def publish(self, job: Consolidation) -> None:
        digest = f"{self.count:064d}"
        self.catalog.publish(job.id, "me", digest=digest, verdict=VERDICT, base_revision="r")

    def published(self, name: str, *holdout: str, base: str = "b") -> Consolidation:
        job = self.claimed(name, [example(task) for task in holdout], base=base)
        self.publish(job)
        return job


@pytest.fixture
def queue(catalog: Catalog, store: ObjectStore) -> Queue:
    return Queue(catalog, store)


def test_earlier_are_the_sessions_that_led_to_the_version_it_goes_on_from(queue: Queue) -> None:
    queue.published("acme/desk", "one")
    queue.published("acme/desk", "two")
    rolled_back = queue.published("acme/desk", "three")
    queue.catalog.set_channel(rolled_back.instance, "prod", str(rolled_back.parent))
    rejected = queue.claimed("acme/desk", [example("four")])
    queue.catalog.reject(rejected.id, "me", VERDICT)
    asked = gather(queue.claimed("acme/desk", [example("five")]), queue)
    assert (tasks(asked.new), tasks(asked.earlier), asked.control) == (["five"], ["one", "two"], [])


def test_control_is_of_the_tenants_other_instances_on_the_same_base(queue: Queue) -> None:
    queue.published("acme/old", "other-older")
    queue.published("acme/old", "other")
    queue.published("acme/large", "of-another-base", base="large")
    queue.published("umbrella/desk", "of-another-tenant")
    job = queue.claimed("acme/desk", [example("mine")])
    queue.published("acme/late", "later")
    asked = gather(job, queue)
    assert (tasks(asked.new), asked.earlier, tasks(asked.control)) == (["mine"], [], ["other"])


def test_of_a_task_that_came_again_the_latest_counts_and_what_is_trained_is_not_asked(queue: Queue) -> None:
    queue.published("acme/desk", "a", "b", "c", "d")
    queue.publish(queue.claimed("acme/desk", [example("b", tokens=20), example("e")]))
    queue.published("acme/other", "c", "f")
    asked = gather(queue.claimed("acme/desk", [example("d")], train=["c"]), queue)
    assert (tasks(asked.earlier), tasks(asked.control)) == (["a", "b", "e"], ["f"])
    assert max(len(each.window) for each in asked.earlier) == 20


def test_what_is_no_longer_in_the_store_is_left_out(queue: Queue) -> None:
    gone = queue.published("acme/desk", "gone")
    queue.published("acme/desk", "kept")
    queue.store.delete(keys.examples(gone.id, "holdout.windows.parquet"))
    asked = gather(queue.claimed("acme/desk", [example("new")]), queue)
    assert tasks(asked.earlier) == ["kept"]


def test_all_earlier_sessions_share_one_budget(queue: Queue) -> None:
    size = MAX_EARLIER_TOKENS // 10
    for session in range(4):
        queue.publish(queue.claimed("acme/desk", [example(f"s{session}-{i}", tokens=size) for i in range(9)]))
    job = queue.claimed("acme/desk", [example("new")])
    asked = gather(job, queue)
    sessions = [task[:2] for task in tasks(asked.earlier)]
    assert sorted(sessions.count(f"s{i}") for i in range(4)) == [2, 2, 3, 3]
    assert gather(job, queue) == asked


def test_one_window_of_each_example_is_asked_before_a_second(queue: Queue) -> None:
    long = example("long", tokens=MAX_NEW_TOKENS // 4, windows=9)
    asked = gather(queue.claimed("acme/desk", [long, example("short", tokens=9), example("mid", tokens=9)]), queue)
    assert tasks(asked.new[:3]) == ["long", "mid", "short"]
    assert [each.task_id for each in asked.new[3:]] == ["long"] * 2


def test_queues_take_turns_in_a_budget_but_one_is_taken_at_least() -> None:
    assert take_turns([[5, 5, 5], [4]], 15, lambda size: size) == [5, 4, 5]
    assert take_turns([[5, 5]], 1000, lambda size: size) == [5, 5]
    assert take_turns([[5, 5]], 2, lambda size: size) == [5], "one at least"
    assert take_turns([], 10, len) == []


def test_every_version_is_asked_the_same_windows_of_a_session_in_the_same_order(queue: Queue) -> None:
    first = queue.claimed("acme/desk", [example(f"t{i}", windows=2) for i in range(8)])
    own = gather(first, queue)
    queue.publish(first)
    second = gather(queue.claimed("acme/desk", [example("t3"), example("u")]), queue)
    assert own.new_keys == [(first.id, i) for i in range(16)]
    by_number = dict(zip(own.new_keys, own.new, strict=True))
    again = dict(zip(second.earlier_keys, second.earlier, strict=True))
    assert len(again) == 14, "a task that came again does not count"
    assert {key: row.task_id for key, row in again.items()} == {
        key: row.task_id for key, row in by_number.items() if row.task_id != "t3"
    }


def test_each_attempt_from_a_version_is_asked_the_same_and_those_from_the_next_version_others(queue: Queue) -> None:
    for session in range(MAX_SESSIONS + 4):
        queue.publish(queue.claimed("acme/desk", [example(f"s{session}-{i}", tokens=300) for i in range(12)]))
    chosen, asked = [], []
    for number in range(8):
        attempts = []
        for attempt in range(2):
            job = queue.claimed("acme/desk", [example(f"new-{number}-{attempt}")])
            attempts.append(list(gather(job, queue).earlier_keys))
            if not attempt:
                queue.catalog.reject(job.id, "me", VERDICT)
        assert attempts[0] == attempts[1]
        queue.publish(job)
        chosen.append({key.session for key in attempts[0]})
        asked.append({key.number for key in attempts[0]})
    assert {len(each) for each in chosen} == {MAX_SESSIONS}
    assert len(set.union(*chosen)) >= MAX_SESSIONS + 4, "no session is left out for long"
    assert set.union(*asked) == set(range(12)), "and no window is"


def test_the_marks_of_the_version_before_are_read(queue: Queue) -> None:
    first = queue.published("acme/desk", "one")
    marks = HighWaterMarks(sessions={first.id: {0: TaskCounts(actions=2, right=1, loss=1, weight=2)}})
    digest = queue.catalog.get_channel(first.instance, "prod")
    queue.store.put(keys.high_water_marks(first.instance, str(digest)), marks.model_dump_json().encode())
    asked = gather(queue.claimed("acme/desk", [example("two")]), queue)
    assert asked.marks == marks
    assert gather(queue.claimed("acme/other", [example("two")]), queue).marks == HighWaterMarks()
