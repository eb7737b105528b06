"""Leases follow progress, not the life of a thread; what makes no progress is killed; only suspects pay for a crash."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from looper.basemodel.node_copies import BaseModelSource
from looper.jobs.consolidation.training.suspects import Suspects, choose_suspects
from looper.jobs.consolidation.training.training_run import TrainingRun
from looper.jobs.queue.leases import LeaseHolder
from looper.jobs.queue.progress import ProgressCounter, StallDetector
from looper.platform.catalog import Catalog
from looper.platform.domain.errors import StoreUnavailable
from looper.platform.domain.recipe import TrainerShape
from looper.platform.domain.states import ConsolidationState, QueueStage
from looper.platform.settings import Settings
from tests.platform.queue_harness import QueueHarness

SOON_S = 60.0
"""Seconds after which a test that waits for something has failed."""


@pytest.fixture
def queue(catalog: Catalog) -> QueueHarness:
    return QueueHarness(catalog)


def test_a_counter_that_stands_still_has_stalled() -> None:
    now, progress = [0.0], ProgressCounter()
    detector = StallDetector(progress, 10, lambda: now[0])
    now[0] = 9.9
    assert not detector.is_stalled()
    now[0] = 10
    assert detector.is_stalled()
    progress.advance()
    assert not detector.is_stalled()
    now[0] = 19.9
    assert not detector.is_stalled()
    now[0] = 20
    assert detector.is_stalled()


def test_work_that_hangs_loses_its_lease_and_work_that_advances_keeps_it(queue: QueueHarness) -> None:
    queue.submit("acme/hangs", "acme/advances")
    hangs, advances = queue.catalog.claim("me", QueueStage.SYNTHESIS, limit=2, lease_s=1)
    progress, ended = ProgressCounter(), threading.Event()

    def advance() -> None:
        while not ended.wait(0.05):
            progress.advance()

    def hold(id: str, counter: ProgressCounter) -> LeaseHolder:
        return LeaseHolder(queue.catalog, "me", 1.0, [id], progress=counter, progress_timeout_s=0.5)

    thread = threading.Thread(target=advance)
    thread.start()
    with hold(hangs.id, ProgressCounter()), hold(advances.id, progress):
        end = time.monotonic() + SOON_S
        while not (claimed := queue.claim("next")):
            assert time.monotonic() < end, "the lease of what hangs is still renewed"
            time.sleep(0.05)
        assert claimed == ["acme/hangs"]
        assert queue.catalog.list_leased("me") == [advances.id]
    ended.set()
    thread.join()


WATCHED = """
import ctypes, sys
from looper.jobs.queue.progress import ProgressCounter
from looper.jobs.queue.watchdog import StallWatchdog

progress = ProgressCounter()
with StallWatchdog(progress, start_timeout_s={start}, timeout_s={timeout}):
    {body}
"""


def run_watched(body: str, start: float = 600, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    code = WATCHED.format(start=start, timeout=timeout, body=body)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SOON_S, check=False)


@pytest.mark.parametrize(
    ("body", "limits"),
    [
        ("__import__('time').sleep(600)", {"start": 1}),
        # PyDLL calls the C library without releasing the lock of the interpreter: no thread runs, no signal handler.
        ("progress.advance(); __import__('time').sleep(1); ctypes.PyDLL(None).sleep(600)", {"timeout": 1.5}),
    ],
    ids=["at the start", "after progress, holding the GIL"],
)
def test_a_process_that_advances_nothing_is_killed(body: str, limits: dict[str, float]) -> None:
    ended = run_watched(body, **limits)
    assert ended.returncode == -signal.SIGKILL
    assert "made no progress for 1" in ended.stderr


def test_a_process_that_ends_is_not_killed() -> None:
    assert run_watched("progress.advance()").returncode == 0


def test_suspects_are_those_in_work_or_last_in_work() -> None:
    assert choose_suspects(None, ["a", "b"]) == ["a", "b"], "nothing is known"
    assert choose_suspects([], ["a", "b"]) == ["a", "b"], "it worked on none"
    recorded: list[Sequence[str]] = []
    suspects = Suspects(recorded.append)
    suspects.work_on(["b", "other"])
    suspects.work_on(["b", "other"])
    assert recorded == [("b", "other")], "recorded once"
    assert suspects.find(["a", "b"]) == choose_suspects(recorded[-1], ["a", "b"]) == ["b"]
    suspects.work_on(["ended"])
    assert suspects.find(["a", "b"]) == ["a", "b"]


def test_suspects_are_recorded_again_after_the_catalog_was_down() -> None:
    recorded: list[Sequence[str]] = []

    def fail(ids: Sequence[str]) -> None:
        recorded.append(ids)
        if len(recorded) == 1:
            raise StoreUnavailable("down")

    suspects = Suspects(fail)
    suspects.work_on(["a"])
    suspects.work_on(["a"])
    assert recorded == [("a",), ("a",)]


def test_only_suspects_are_charged_for_a_dead_trainer(queue: QueueHarness, settings: Settings) -> None:
    queue.submit("acme/culprit", "umbrella/neighbor")
    queue.claim()
    queue.hand_over(ConsolidationState.TRAINING)
    run = TrainingRun(TrainerShape.PLAIN, "trainer", settings, BaseModelSource(Path()))
    queue.catalog.add_trainer("trainer", "queue", settings.base, TrainerShape.PLAIN)
    culprit, neighbor = queue.catalog.claim("trainer", QueueStage.TRAINING, limit=2, lease_s=60)
    queue.catalog.set_suspects("trainer", [culprit.id])
    run.release_after_death(queue.catalog)
    assert queue.catalog.list_leased("trainer") == []
    assert queue.catalog.get_consolidation(culprit.id).attempts == 1
    assert queue.catalog.get_consolidation(neighbor.id).attempts == 0
