"""Whatever is killed, at whatever moment: each consolidation is published, once and whole."""

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
from looper.platform.domain.consolidation import Consolidation, ConsolidationState
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.settings import GateSettings, Settings
from tests.jobs.episodes import RECIPE, episode, submit

WORKER, DRIVER, RAYLET, GCS, ANY = "ray::RayTrain", "driver", "raylet", "gcs_server", "any"
"""What is killed: a trainer's worker, who drives Ray and the foreman with it, two of Ray's head, whatever there is."""

PATIENCE_S = 180.0
"""For a victim to be there, and for a driver to end whose Ray is gone: it waits for a minute that it comes back."""


class Drivers:
    """Works the queue of ``settings`` in a process of its own, and in another when that one has ended."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.started: list[subprocess.Popen[bytes]] = []

    def ensure(self) -> subprocess.Popen[bytes]:
        """The driver that runs."""
        if not self.started or self.started[-1].poll() is not None:
            command = [sys.executable, "-m", "tests.jobs.driver"]
            self.started.append(subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True))
            pipe = self.started[-1].stdin
            assert pipe is not None
            with pipe:
                pipe.write(self.settings.model_dump_json().encode())
        return self.started[-1]

    def find(self, name: str) -> list[psutil.Process]:
        """The driver's processes of that name, now."""
        driver = self.ensure()
        if name == DRIVER:
            return [psutil.Process(driver.pid)]
        family = [each for each in _of_sessions({driver.pid}) if each.pid != driver.pid]
        return [each for each in family if name == ANY or _name(each).startswith(name)]

    def end(self) -> None:
        """End all drivers and whatever they left."""
        for each in (left := _of_sessions({driver.pid for driver in self.started})):
            with suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(left, timeout=10)
        for driver in self.started:
            driver.wait()


def _of_sessions(sessions: set[int]) -> list[psutil.Process]:
    """Whatever descends from the leader of one of these sessions, whether its parents live or not."""

    def session(pid: int) -> int | None:
        with suppress(ProcessLookupError):
            return os.getsid(pid)
        return None

    return [each for each in psutil.process_iter() if session(each.pid) in sessions]


def _name(process: psutil.Process) -> str:
    try:
        return "" if process.status() == psutil.STATUS_ZOMBIE else process.name()
    except psutil.NoSuchProcess:
        return ""


@pytest.fixture
def drivers(settings: Settings) -> Iterator[Drivers]:
    # What is trained for seconds only is half a skill: the gate is to let it through all the same.
    anything = GateSettings(max_forgetting=1, max_loops=1, max_tool_errors=1, max_control_loss=1e6)
    limits = settings.consolidation.model_copy(update={"lease_s": 3.0, "checkpoint_interval_s": 0.5, "gate": anything})
    drivers = Drivers(settings.model_copy(update={"consolidation": limits}))
    yield drivers
    drivers.end()


def submit_twelve(catalog: Catalog, store: ObjectStore, settings: Settings, epochs: int) -> list[Consolidation]:
    """Of ten instances: two of them go on from what their first consolidation published."""
    recipe = RECIPE.model_copy(update={"epochs": epochs, "learning_rate": 2e-3})

    def queue(name: str, room: str) -> Consolidation:
        batch = [episode(task, room=room) for task in range(16)]
        return submit(catalog, store, name, batch, base=settings.base, recipe=recipe, id=room)

    names = [f"{tenant}/{number}" for tenant in ("acme", "umbrella") for number in range(5)]
    return [queue(name, "blue") for name in names] + [queue(name, "red") for name in names[::5]]


def strike(drivers: Drivers, catalog: Catalog, victim: str, rng: random.Random, within_s: float) -> None:
    """Kill one at a random moment within so many seconds of its first being there, a worker of its first steps."""
    end = time.monotonic() + PATIENCE_S
    while not drivers.find(victim) or (victim == WORKER and not _in_training(catalog)):
        assert time.monotonic() < end, f"there was no {victim}"
        if not catalog.unfinished():
            return
        time.sleep(0.1)
    time.sleep(delay := rng.uniform(0, within_s))
    for chosen in rng.sample(there := drivers.find(victim), min(1, len(there))):
        print(f"driver {len(drivers.started)}, after {delay:.1f} s: {victim}, {_name(chosen)} {chosen.pid}")
        with suppress(psutil.NoSuchProcess):
            chosen.kill()
    if victim in (DRIVER, RAYLET, GCS):
        drivers.started[-1].wait(PATIENCE_S)


def _in_training(catalog: Catalog) -> bool:
    return any(job.owner and job.progress and job.progress.step for job in catalog.unfinished())


def work_to_the_end(drivers: Drivers, catalog: Catalog) -> None:
    while catalog.unfinished():
        drivers.ensure()
        time.sleep(0.2)
        assert len(drivers.started) < 100, "drivers end over and over"


def assert_published_once_and_whole(jobs: list[Consolidation], catalog: Catalog, store: ObjectStore) -> None:
    checkpoint.sweep(catalog, store)
    assert store.list(keys.CHECKPOINTS) == []
    digests: dict[str, str | None] = {}
    for job in (catalog.consolidation(job.id) for job in jobs):
        events = [event.what for event in catalog.events(consolidation=job.id)]
        assert job.state is ConsolidationState.PUBLISHED, (job.reason, events)
        assert job.owner is None
        assert events.count(f"published {job.digest}") == sum(what.startswith("published") for what in events) == 1
        assert job.digest is not None
        assert adapters.fetch(store, job.instance.tenant, job.digest).read_manifest().consolidation == job.id
        assert job.parent == digests.get(str(job.instance)), "it did not go on from what came before"
        digests[str(job.instance)] = job.digest
    for job in jobs:
        assert catalog.channel(job.instance, "prod") == digests[str(job.instance)]
    stored = {tuple(key.split("/")[1:3]) for key in store.list("adapters")}
    assert len(stored) == len(jobs), "an adapter is in the store that no version tells of"


def test_what_is_killed_is_taken_up_again(drivers: Drivers, catalog: Catalog, store: ObjectStore) -> None:
    jobs = submit_twelve(catalog, store, drivers.settings, epochs=6)
    rng = random.Random(7)
    for victim, within_s in ((WORKER, 1.0), (DRIVER, 12.0)):
        strike(drivers, catalog, victim, rng, within_s)
    work_to_the_end(drivers, catalog)
    assert_published_once_and_whole(jobs, catalog, store)


@pytest.mark.bench
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_is_killed_is_taken_up_again(
    seed: int, drivers: Drivers, catalog: Catalog, store: ObjectStore
) -> None:
    jobs = submit_twelve(catalog, store, drivers.settings, epochs=100)
    rng = random.Random(seed)
    victims = [WORKER] * 5 + [DRIVER] * 5 + [RAYLET] * 2 + [GCS] * 2 + [ANY] * 8
    rng.shuffle(victims)
    for victim in victims:
        strike(drivers, catalog, victim, rng, 3.0 if victim == WORKER else 30.0)
    work_to_the_end(drivers, catalog)
    assert_published_once_and_whole(jobs, catalog, store)
