"""Watch and cancel consolidations while another process works on them."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
import typer

from looper.cli.control_plane.local import LocalControlPlane
from looper.cli.watch import exit_if_failed, watch
from looper.jobs.gate.judge import judge_candidate
from looper.platform.api.models import ConsolidationInfo
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation, TrainingProgress
from looper.platform.domain.names import InstanceName
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.scores import GateVerdict, Scores
from looper.platform.domain.states import ConsolidationState, QueueStage
from looper.platform.settings import GateSettings, load_settings
from tests.cli.conftest import Home
from tests.jobs.gate.simulation import Pair, scores_of

SCORES = Scores(accuracy=0.5, loss=1.0, actions=4, tokens=40)
VERDICT = GateVerdict(passed=True, reason="loss 1.2 -> 1.0", candidate=SCORES, current=SCORES)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def catalog(home: Home) -> Iterator[Catalog]:
    with closing(Catalog.open(load_settings(home=home.folder / "home"))) as catalog:
        catalog.create_tenant("acme")
        yield catalog


@pytest.fixture
def plane(home: Home, catalog: Catalog) -> LocalControlPlane:
    return LocalControlPlane(load_settings(home=home.folder / "home"))


def submit(catalog: Catalog, name: str) -> Consolidation:
    instance = InstanceName("acme", name)
    catalog.ensure_instance(instance)
    catalog.add_batch(instance, "b1", source="x", trajectories=1)
    return catalog.submit(instance, base="b", recipe=Recipe())


def test_watch_prints_an_object_per_change_until_all_have_ended(home: Home, catalog: Catalog) -> None:
    good, bad, other = (submit(catalog, name) for name in ("good", "bad", "other"))
    with subprocess.Popen(
        [sys.executable, "-m", "looper", "jobs", "watch", good.id, bad.id, "--json"],
        cwd=home.folder,
        env=home.environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = (json.loads(line) for line in process.stdout)

        def wait_for(**expected: object) -> dict[str, object]:
            return next(line for line in lines if expected.items() <= line.items())

        wait_for(id=bad.id, state="queued")
        catalog.claim("me", QueueStage.SYNTHESIS, limit=9, lease_s=60)
        catalog.advance(good.id, "me", ConsolidationState.TRAINING)
        wait_for(id=good.id, state="training")
        catalog.report_progress(good.id, "me", TrainingProgress(step=3, steps=20, loss=1.5))
        progress = {"step": 3, "steps": 20, "loss": 1.5, "training_s": 0.0, "left_out": 0, "learning_rate": None}
        wait_for(id=good.id, progress=progress)
        catalog.publish(good.id, "me", digest="1" * 64, verdict=VERDICT, base_revision="r")
        wait_for(id=good.id, state="published", digest="1" * 64)
        catalog.fail(bad.id, "me", "no examples left")
        wait_for(id=bad.id, state="failed", reason="no examples left")
        assert list(lines) == []
    assert process.returncode == 1
    assert catalog.get_consolidation(other.id).state is ConsolidationState.QUEUED


def test_show_tells_the_results_in_each_context(home: Home, catalog: Catalog) -> None:
    job = submit(catalog, "desk")
    catalog.claim("me", QueueStage.SYNTHESIS, limit=9, lease_s=60)
    catalog.advance(job.id, "me", ConsolidationState.TRAINING)
    tasks: tuple[Pair, ...] = ((1, 1, 0),) * 6
    scores = scores_of(tasks, (), {"": tasks[:4], "with_notes": tasks[4:]})
    catalog.publish(job.id, "me", digest="1" * 64, verdict=judge_candidate(scores, GateSettings()), base_revision="r")
    shown = [" ".join(line.split()) for line in home.ok("jobs", "show", job.id).splitlines()]
    assert "tasks exactly right 6 of 6, before 0" in shown
    assert "as recorded 4 of 4 actions right, before 0" in shown
    assert "beside notes 2 of 2 actions right, before 0" in shown


def test_ctrl_c_ends_the_watching_and_not_the_consolidation(home: Home, catalog: Catalog) -> None:
    job = submit(catalog, "desk")
    with subprocess.Popen(
        [sys.executable, "-m", "looper", "jobs", "watch"],
        cwd=home.folder,
        env=home.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # If the tests run in the background of a shell, the process inherits that SIGINT is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"acme/desk {job.id[:8]}: queued\n"
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.startswith("stopped watching; the consolidations continue\n")
    assert "Traceback" not in errors
    assert catalog.get_consolidation(job.id).state is ConsolidationState.QUEUED


def test_watch_with_nothing_to_watch_says_so(home: Home) -> None:
    assert "looper consolidate" in home.ok("jobs", "watch")
    assert home.ok("jobs", "watch", "--json") == ""
    assert "consolidation none does not exist: looper jobs list" in home.refused("jobs", "watch", "none")


def test_without_a_terminal_each_change_is_a_line(catalog: Catalog, plane: LocalControlPlane) -> None:
    job = submit(catalog, "desk")
    catalog.claim("me", QueueStage.SYNTHESIS, limit=9, lease_s=60)
    out, stop = io.StringIO(), threading.Event()
    stop.set()
    watch(plane, [job.id], out, stop=stop)
    assert out.getvalue() == f"acme/desk {job.id[:8]}: queued\n"

    catalog.hand_over(job.id, "me", ConsolidationState.TRAINING)
    watch(plane, [job.id], out, stop=stop)
    catalog.claim("trainer", QueueStage.TRAINING, limit=9, lease_s=60)
    catalog.report_progress(job.id, "trainer", TrainingProgress(step=3, steps=20, loss=1.5))
    watch(plane, [job.id], out, stop=stop)
    catalog.publish(job.id, "trainer", digest="1" * 64, verdict=VERDICT, base_revision="r")
    (ended,) = watch(plane, [job.id], out)
    assert ended.state is ConsolidationState.PUBLISHED
    assert [line.partition(": ")[2] for line in out.getvalue().splitlines()[1:]] == [
        "training (waiting)",
        "training, step 3/20, loss 1.5000",
        "published, loss 1.2 -> 1.0",
    ]


def test_a_terminal_shows_as_many_jobs_as_fit_and_counts_all(
    catalog: Catalog, plane: LocalControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "8")
    jobs = [submit(catalog, f"i{number}") for number in range(9)]
    catalog.cancel(jobs[0].id)
    (worked_on,) = catalog.claim("me", QueueStage.SYNTHESIS, limit=1, lease_s=60)
    catalog.advance(worked_on.id, "me", ConsolidationState.TRAINING)
    catalog.report_progress(worked_on.id, "me", TrainingProgress(step=3, steps=20, loss=1.5))
    terminal, stop = Terminal(), threading.Event()
    stop.set()
    watch(plane, [job.id for job in jobs], terminal, stop=stop)
    shown = [" ".join(line.split()) for line in re.sub(r"\x1b\[[0-9;?]*\w", "\n", terminal.getvalue()).splitlines()]
    assert "1 cancelled, 1 training, 7 queued" in shown
    rows = list({line.split()[0]: line for line in shown if line.startswith("acme/")}.values())  # several frames
    assert rows[0].startswith(f"{worked_on.instance} training 3/20 1.5000 0:00:0")
    assert len(rows) == 4
    assert all(" queued - - 0:0" in row for row in rows[1:])


def test_only_a_failed_job_makes_the_exit_status_1(catalog: Catalog) -> None:
    job = ConsolidationInfo.from_consolidation(submit(catalog, "desk"))
    exit_if_failed(
        [
            job.model_copy(update={"state": state})
            for state in ConsolidationState
            if state is not ConsolidationState.FAILED
        ]
    )
    with pytest.raises(typer.Exit):
        exit_if_failed([job, job.model_copy(update={"state": ConsolidationState.FAILED})])


def test_cancel_continues_after_a_job_that_cannot_be_cancelled(home: Home, catalog: Catalog) -> None:
    one, two, three = (submit(catalog, name) for name in ("one", "two", "three"))
    catalog.cancel(one.id)
    message = home.refused("jobs", "cancel", one.id, "none", two.id, two.id, three.id)
    assert f"consolidation {one.id} is cancelled already; consolidation none does not exist" in message
    assert catalog.list_unfinished() == []
