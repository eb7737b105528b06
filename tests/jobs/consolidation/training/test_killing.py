"""Kill processes at random moments: each consolidation is still published, exactly once and completely."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest

from looper.jobs.consolidation.training import checkpoint
from looper.platform import adapters
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.states import ConsolidationState
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.settings import GateSettings, Settings
from tests.gate import LENIENT_GATE
from tests.jobs.episodes import RECIPE, episode, submit

WORKER, DRIVER, RAYLET, GCS, ANY = "ray::RayTrain", "driver", "raylet", "gcs_server", "any"
"""Victims: a trainer's worker; Ray's driver, which has the queue worker in it; two processes of Ray's head; any."""

TIMEOUT_S = 180.0
"""Seconds to wait for a victim, and for the end of a driver that lost its Ray: it waits a minute for Ray to return."""


class DriverProcesses:
    """Works the queue of ``settings`` in a separate process, and in a new one whenever that process has ended."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.started: list[subprocess.Popen[bytes]] = []

    def ensure(self) -> subprocess.Popen[bytes]:
        """Return the running driver, and start one if there is none."""
        if not self.started or self.started[-1].poll() is not None:
            command = [sys.executable, "-m", "tests.jobs.driver"]
            self.started.append(subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True))
            pipe = self.started[-1].stdin
            assert pipe is not None
            with pipe:
                pipe.write(self.settings.model_dump_json().encode())
        return self.started[-1]

    def find(self, name: str) -> list[psutil.Process]:
        """List the processes of the driver that have ``name``."""
        driver = self.ensure()
        if name == DRIVER:
            return [psutil.Process(driver.pid)]
        children = [process for process in _processes_of_sessions({driver.pid}) if process.pid != driver.pid]
        return [process for process in children if name == ANY or _name(process).startswith(name)]

    def kill_all(self) -> None:
        """Kill all drivers and their remaining processes."""
        for process in (remaining := _processes_of_sessions({driver.pid for driver in self.started})):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(remaining, timeout=10)
        for driver in self.started:
            driver.wait()


def _processes_of_sessions(sessions: set[int]) -> list[psutil.Process]:
    """List all processes in these process sessions, even if their parents have ended."""

    def session(pid: int) -> int | None:
        with suppress(ProcessLookupError):
            return os.getsid(pid)
        return None

    return [process for process in psutil.process_iter() if session(process.pid) in sessions]


def _name(process: psutil.Process) -> str:
    try:
        return "" if process.status() == psutil.STATUS_ZOMBIE else process.name()
    except psutil.NoSuchProcess:
        return ""


@pytest.fixture
def drivers(settings: Settings) -> Iterator[DriverProcesses]:
    # A few seconds of training may not be enough for the gate, which must let the candidates pass here.
    lenient = GateSettings(
        **LENIENT_GATE, max_forgetting=1, max_loops=1, max_tool_errors=1, max_loss_ratio=1e6, max_control_loss=1e6
    )
    limits = settings.consolidation.model_copy(update={"lease_s": 3.0, "checkpoint_interval_s": 0.5, "gate": lenient})
    drivers = DriverProcesses(settings.model_copy(update={"consolidation": limits}))
    yield drivers
    drivers.kill_all()


def submit_twelve(catalog: Catalog, store: ObjectStore, settings: Settings, epochs: int) -> list[Consolidation]:
    """Submit twelve jobs of ten instances. Two instances have a second job, which starts from their first version."""
    recipe = RECIPE.model_copy(update={"epochs": epochs, "learning_rate": 2e-3})

    def queue(name: str, room: str) -> Consolidation:
        batch = [episode(task, room=room) for task in range(16)]
        return submit(catalog, store, name, batch, base=settings.base, recipe=recipe, id=room)

    names = [f"{tenant}/{number}" for tenant in ("acme", "umbrella") for number in range(5)]
    return [queue(name, "blue") for name in names] + [queue(name, "red") for name in names[::5]]


def kill_one(drivers: DriverProcesses, catalog: Catalog, victim: str, rng: random.Random, within_s: float) -> None:
    """Kill one ``victim`` at a random moment within ``within_s`` of its start, or of the first steps for a worker."""
    end = time.monotonic() + TIMEOUT_S
    while not drivers.find(victim) or (victim == WORKER and not _in_training(catalog)):
        assert time.monotonic() < end, f"no {victim} started"
        if not catalog.list_unfinished():
            return
        time.sleep(0.1)
    time.sleep(delay := rng.uniform(0, within_s))
    for chosen in rng.sample(running := drivers.find(victim), min(1, len(running))):
        print(f"driver {len(drivers.started)}, after {delay:.1f} s: {victim}, {_name(chosen)} {chosen.pid}")
        with suppress(psutil.NoSuchProcess):
            chosen.kill()
    if victim in (DRIVER, RAYLET, GCS):
        drivers.started[-1].wait(TIMEOUT_S)


def _in_training(catalog: Catalog) -> bool:
    return any(job.owner and job.progress and job.progress.step for job in catalog.list_unfinished())


def work_until_empty(drivers: DriverProcesses, catalog: Catalog) -> None:
    while catalog.list_unfinished():
        drivers.ensure()
        time.sleep(0.2)
        assert len(drivers.started) < 100, "drivers end again and again"


def assert_published_once_and_completely(jobs: list[Consolidation], catalog: Catalog, store: ObjectStore) -> None:
    checkpoint.delete_orphaned_checkpoints(catalog, store)
    assert store.list(keys.CHECKPOINTS) == []
    digests: dict[str, str | None] = {}
    for job in (catalog.get_consolidation(job.id) for job in jobs):
        events = [event.what for event in catalog.list_events(consolidation=job.id)]
        assert job.state is ConsolidationState.PUBLISHED, (job.reason, events)
        assert job.owner is None
        assert events.count(f"published {job.digest}") == sum(what.startswith("published") for what in events) == 1
        assert job.digest is not None
        assert adapters.fetch(store, job.instance.tenant, job.digest).read_manifest().consolidation == job.id
        assert job.parent == digests.get(str(job.instance)), "it did not start from the version before"
        digests[str(job.instance)] = job.digest
    for job in jobs:
        assert catalog.get_channel(job.instance, "prod") == digests[str(job.instance)]
    stored = {tuple(key.split("/")[1:3]) for key in store.list("adapters")}
    assert len(stored) == len(jobs), "the store has an adapter without a version"


def work_through_two_kills(drivers: DriverProcesses, catalog: Catalog, store: ObjectStore) -> None:
    jobs = submit_twelve(catalog, store, drivers.settings, epochs=6)
    rng = random.Random(7)
    for victim, within_s in ((WORKER, 1.0), (DRIVER, 12.0)):
        kill_one(drivers, catalog, victim, rng, within_s)
    work_until_empty(drivers, catalog)
    assert_published_once_and_completely(jobs, catalog, store)


def test_work_resumes_after_two_kills(drivers: DriverProcesses, catalog: Catalog, store: ObjectStore) -> None:
    work_through_two_kills(drivers, catalog, store)


@pytest.mark.bench
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("workers", [2, 4])
def test_work_of_several_workers_resumes_after_two_kills(
    workers: int, drivers: DriverProcesses, catalog: Catalog, store: ObjectStore
) -> None:
    """One of the workers is killed, whichever it is. Ray ends the others, and starts all of them again."""
    consolidation = drivers.settings.consolidation.model_copy(update={"num_workers": workers})
    drivers.settings = drivers.settings.model_copy(update={"consolidation": consolidation})
    work_through_two_kills(drivers, catalog, store)


@pytest.mark.bench
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [1, 2])
def test_work_resumes_after_many_random_kills(
    seed: int, drivers: DriverProcesses, catalog: Catalog, store: ObjectStore
) -> None:
    jobs = submit_twelve(catalog, store, drivers.settings, epochs=100)
    rng = random.Random(seed)
    victims = [WORKER] * 5 + [DRIVER] * 5 + [RAYLET] * 2 + [GCS] * 2 + [ANY] * 8
    rng.shuffle(victims)
    for victim in victims:
        kill_one(drivers, catalog, victim, rng, 3.0 if victim == WORKER else 30.0)
    work_until_empty(drivers, catalog)
    assert_published_once_and_completely(jobs, catalog, store)
