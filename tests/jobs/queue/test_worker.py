"""The queue worker from trajectories to published adapters: real Ray Data, Ray Train, PEFT and DeepSpeed, tiny base."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from ray.util import placement_group, remove_placement_group
from safetensors.torch import load

from looper.basemodel.node_copies import BaseModelSource
from looper.cluster.run_until_complete import run_until_complete
from looper.jobs.consolidation.training import checkpoint
from looper.jobs.queue.publication import LIBRARIES
from looper.jobs.queue.worker import work_queue
from looper.jobs.synthesis.pipeline.run import synthesize
from looper.platform import adapters
from looper.platform.adapters.base_revision import read_base_revision
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.states import ConsolidationState
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.objectstore.store import PARTIAL_LIFETIME_S
from looper.platform.settings import Settings
from tests.jobs.episodes import RECIPE, episode, ingest, submit

pytestmark = pytest.mark.usefixtures("ray_local")


@pytest.fixture
def queue(catalog: Catalog, store: ObjectStore, settings: Settings) -> Callable[..., Consolidation]:
    def submit_one(name: str, *, count: int = 12, success: bool = True, **recipe: float) -> Consolidation:
        batch = [episode(task, room=name.replace("/", "-"), success=success) for task in range(count)]
        changed = RECIPE.model_copy(update=recipe)
        return submit(catalog, store, name, batch, base=settings.base, recipe=changed, id=name.replace("/", "-"))

    return submit_one


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)


def test_a_cohort_goes_from_trajectories_to_published_adapters(
    queue: Callable[..., Consolidation], catalog: Catalog, store: ObjectStore, settings: Settings, base_dir: Path
) -> None:
    good, other = queue("acme/red"), queue("umbrella/blue", seed=1)
    failures = queue("acme/failures", success=False)
    high_rank = submit(
        catalog, store, "acme/wide", [episode(1)], base=settings.base, recipe=RECIPE.model_copy(update={"rank": 64})
    )

    jobs = [good, other, failures, high_rank]
    run_until_complete(catalog, store, settings, {settings.base: base_dir}, [job.id for job in jobs])
    ended = [catalog.get_consolidation(job.id) for job in jobs]
    for job in ended[:2]:
        assert job.state is ConsolidationState.PUBLISHED, job.reason
        assert job.digest is not None
        assert catalog.get_channel(job.instance, "prod") == job.digest
        assert catalog.get_version(job.digest).base_revision == read_base_revision(base_dir)
        files = adapters.fetch(store, job.instance.tenant, job.digest)
        manifest = files.read_manifest()
        assert manifest.training_data == job.batches
        assert manifest.verdict == job.verdict
        assert set(manifest.libraries) == set(LIBRARIES)
        assert json.loads(files.config)["base_model_name_or_path"] == settings.base
        assert load(files.weights)
        assert store.list(keys.checkpoints(job.id)) == []
    assert ended[2].state is ConsolidationState.FAILED
    assert ended[2].reason is not None
    assert ended[2].reason.startswith("no examples left after filtering: of 12 trajectories, 12 failed")
    report = json.loads(store.get(keys.examples(good.id, "report.json")))
    assert report["train"] + report["holdout"] == 12

    assert ended[3].state is ConsolidationState.FAILED
    assert "rank 64 is above serve.max_lora_rank 16" in str(ended[3].reason)

    # The next consolidation starts from the version that is served now, and the gate compares it with that version.
    ingest(catalog, store, good.instance, [episode(task, room="next") for task in range(20, 32)], "second")
    second = catalog.submit(good.instance, base=settings.base, recipe=RECIPE)
    run_until_complete(catalog, store, settings, {settings.base: base_dir}, [second.id])
    second = catalog.get_consolidation(second.id)
    assert second.parent == ended[0].digest
    assert second.verdict is not None, second.reason
    if second.verdict.passed:
        assert catalog.get_version(str(second.digest)).parent == ended[0].digest


def test_a_killed_worker_resumes_from_its_checkpoint(
    queue: Callable[..., Consolidation], catalog: Catalog, store: ObjectStore, settings: Settings, base_dir: Path
) -> None:
    limits = settings.consolidation.model_copy(update={"checkpoint_interval_s": 0.0})
    settings = settings.model_copy(update={"consolidation": limits})
    job = queue("acme/red", count=40, epochs=15)
    killed: list[int] = []
    kept: list[int] = []
    steps: list[int] = []

    def kill() -> None:
        wait_for(lambda: _newest_step(store, job) >= 3)
        kept.append(_newest_step(store, job))
        killed.extend(_training_workers())
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        while not (now := catalog.get_consolidation(job.id)).state.is_final:
            assert now.progress is not None
            steps.append(now.progress.step)
            time.sleep(0.05)

    killer = threading.Thread(target=kill)
    killer.start()
    run_until_complete(catalog, store, settings, {settings.base: base_dir}, [job.id])
    ended = catalog.get_consolidation(job.id)
    killer.join()
    assert len(killed) == 1
    # A worker may be killed after steps that no checkpoint has: they are trained again, and no others.
    assert all(now >= min(kept[0], before) for before, now in pairwise(steps)), "training started again"
    assert ended.state is ConsolidationState.PUBLISHED, ended.reason
    assert ended.progress is not None
    assert ended.progress.step == ended.progress.steps == 120


def test_idle_trainers_leave_a_cpu_to_synthesis(
    queue: Callable[..., Consolidation], catalog: Catalog, store: ObjectStore, settings: Settings, base_dir: Path
) -> None:
    limits = settings.consolidation.model_copy(update={"max_trainers": 2, "cohort_size": 1, "idle_timeout_s": 3600.0})
    settings = settings.model_copy(update={"consolidation": limits})
    servers = placement_group([{"CPU": 2}])
    assert servers.wait(60)
    jobs = [queue("acme/red"), queue("acme/green")]

    def have_ended() -> bool:
        if not all(catalog.get_consolidation(job.id).state.is_final for job in jobs):
            return False
        if len(jobs) == 2:
            assert len(_training_workers()) == 2
            jobs.append(queue("umbrella/blue"))
            return False
        return True

    work_queue(catalog, store, settings, {settings.base: BaseModelSource(base_dir)}, have_ended)
    remove_placement_group(servers)


def _training_workers() -> list[int]:
    """List the training workers of this test session's Ray: descendants of this process, named for their actor."""
    return [process.pid for process in psutil.Process().children(recursive=True) if _is_training_worker(process)]


def _is_training_worker(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and process.name().startswith("ray::RayTrain")
    except psutil.NoSuchProcess:
        return False


def test_interrupted_work_is_released_and_another_queue_worker_resumes(
    queue: Callable[..., Consolidation], catalog: Catalog, store: ObjectStore, settings: Settings, base_dir: Path
) -> None:
    limits = settings.consolidation.model_copy(update={"checkpoint_interval_s": 0.0})
    settings = settings.model_copy(update={"consolidation": limits})
    job = queue("acme/red", count=40, epochs=1000)

    def checkpoint_after(step: int) -> Callable[[], bool]:
        return lambda: _newest_step(store, job) > step

    def interrupt() -> None:
        wait_for(checkpoint_after(0))
        os.kill(os.getpid(), signal.SIGINT)

    ctrl_c = threading.Thread(target=interrupt)
    # A shell's background jobs inherit SIGINT as ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    ctrl_c.start()
    with pytest.raises(KeyboardInterrupt):
        run_until_complete(catalog, store, settings, {settings.base: base_dir}, [job.id])
    ctrl_c.join()
    signal.signal(signal.SIGINT, before)
    assert catalog.get_consolidation(job.id).owner is None
    wait_for(lambda: not _training_workers())

    done = _newest_step(store, job)
    work_queue(catalog, store, settings, {settings.base: BaseModelSource(base_dir)}, checkpoint_after(done))
    released = catalog.get_consolidation(job.id)
    assert released.owner is None
    assert released.state is ConsolidationState.TRAINING


def _newest_step(store: ObjectStore, job: Consolidation) -> int:
    return max(checkpoint.list_checkpoint_steps(store, job.id), default=0)


def test_synthesis_runs_once_and_a_missing_batch_fails_only_its_own_job(
    queue: Callable[..., Consolidation], store: ObjectStore
) -> None:
    red, blue = queue("acme/red"), queue("acme/blue")
    store.delete(keys.trajectories(blue.instance, blue.batches[0]))
    reports = synthesize([red, blue], store, 0.2)
    assert reports[red.id].failure is None
    assert "is not in the object store" in str(reports[blue.id].failure)
    store.delete(keys.trajectories(red.instance, red.batches[0]))
    assert synthesize([red], store, 0.2) == {red.id: reports[red.id]}


def test_a_store_that_is_down_delays_jobs_and_fails_none(
    queue: Callable[..., Consolidation], catalog: Catalog, store: ObjectStore, settings: Settings, base_dir: Path
) -> None:
    job = queue("acme/red")
    folder = settings.home / "store" / "examples"
    folder.write_text("a file where a folder should be")

    def is_released() -> bool:
        now = catalog.get_consolidation(job.id)
        return now.state is ConsolidationState.SYNTHESISING and now.owner is None

    work_queue(catalog, store, settings, {settings.base: BaseModelSource(base_dir)}, is_released)
    folder.unlink()
    run_until_complete(catalog, store, settings, {settings.base: base_dir}, [job.id])
    assert catalog.get_consolidation(job.id).state is ConsolidationState.PUBLISHED


def test_what_killed_writers_left_in_the_store_is_swept(
    catalog: Catalog, store: ObjectStore, settings: Settings, base_dir: Path
) -> None:
    store.put("a/object", b"x")
    partial = Path(settings.store_url, "a", "object.0.partial")
    partial.write_bytes(b"half")
    written_at, deadline = time.time() - PARTIAL_LIFETIME_S - 1, time.monotonic() + 60
    os.utime(partial, (written_at, written_at))
    work_queue(
        catalog,
        store,
        settings,
        {settings.base: BaseModelSource(base_dir)},
        lambda: not partial.exists() or time.monotonic() > deadline,
    )
    assert not partial.exists()
    assert store.get("a/object") == b"x"
