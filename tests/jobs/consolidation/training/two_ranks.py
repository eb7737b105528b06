"""Run many short trainings with injected faults on two ranks of a trainer, in two processes, and record what they do.

All runs start from the same state: red has a checkpoint, and a newer one that is damaged; green is trained and only
waits to be handed over; blue is new. Training is in float32 on a tiny base, so a run takes a fraction of a second.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import torch
import torch.distributed as dist

from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.training import checkpoint_writer
from looper.jobs.consolidation.training.fused_step import FusedStep
from looper.jobs.consolidation.training.session import TrainingSession
from looper.jobs.consolidation.training.trainer import run_trainer
from looper.jobs.consolidation.training.trainer_context import TrainerContext
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.errors import NotFound, StoreFull, StoreUnavailable
from looper.platform.domain.states import QueueStage
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import load_settings
from tests.tiny import FLOAT32

SEEDS = {"red": 1, "green": 2, "blue": 3}
"""Seeds of the recipes, which identify the jobs."""

COLLECTIVE_TIMEOUT_S = 30.0
"""Seconds after which a collective has hung."""

KILLED = "killed"
"""File in the home of a run in which a rank was killed."""

Fault = Callable[[Catalog, dict[str, str], int, str], bytes | None]
"""Called before each call of a rank to its catalog or store, with the catalog, the ids by name, the number of the call
from 1 on, and the call as text. If it returns bytes, the call returns them instead."""


@dataclass(frozen=True)
class Scenario:
    """What the trainer claims in a run, and how large its passes are."""

    claims: tuple[tuple[str, ...], ...]
    """What each poll of the queue returns."""
    max_tokens_per_pass: int
    stopped_at: int | None = None
    """Number of the poll at which the trainer is told to stop."""
    checkpoint_interval_s: float = 0.0
    """By default, each pass is followed by a checkpoint."""


ALONE = Scenario((("blue",),), 1024)
BESIDE = Scenario((("red", "green", "blue"),), 1024)
"""Red and blue take every step together, in one pass."""
PAUSED = Scenario((("red",), ("blue",)), 16)
"""Steps take several passes. Red's first step pauses for that of blue."""
STOPPED = Scenario((("red", "blue"),), 1024, stopped_at=2)


@dataclass
class Record:
    """What one rank did in a run, and what the catalog says afterwards."""

    events: list[str] = field(default_factory=list)
    """Steps that started, with their members; steps that a member took; members that were closed."""
    calls: list[str] = field(default_factory=list)
    """Calls to catalog and store."""
    raised: str | None = None
    states: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str | None] = field(default_factory=dict)
    leased: list[str] = field(default_factory=list)
    """Jobs that still have an owner."""


class Intercepted:
    """A catalog or a store, with a hook before each call."""

    def __init__(self, inner: object, before: Callable[[str], bytes | None]) -> None:
        self._inner, self._before = inner, before

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            instead = self._before(f"{type(self._inner).__name__}.{name}({args[0] if args else ''})")
            return getattr(self._inner, name)(*args, **kwargs) if instead is None else instead

        return call


@contextmanager
def recording(record: Callable[[str], None]) -> Iterator[None]:
    """Call ``record`` with each event, before it happens: see ``Record.events``."""
    names = {seed: name for name, seed in SEEDS.items()}
    start, take_step, close = FusedStep.__init__, TrainingSession.take_step, TrainingSession.close

    def recorded_start(step: FusedStep, base: SharedBase, sessions: Any) -> None:
        record("step of " + ", ".join(names[session.recipe.seed] for session in sessions))
        start(step, base, sessions)

    def recorded_take_step(session: TrainingSession, *args: Any) -> None:
        record(f"{names[session.recipe.seed]} takes step {session.step + 1}")
        take_step(session, *args)

    def recorded_close(session: TrainingSession) -> None:
        record(f"{names[session.recipe.seed]} is closed")
        close(session)

    with (
        patch.object(FusedStep, "__init__", recorded_start),
        patch.object(TrainingSession, "take_step", recorded_take_step),
        patch.object(TrainingSession, "close", recorded_close),
    ):
        yield


class RunAtOnce:
    """Instead of the thread that writes checkpoints: then the calls of a run have an order."""

    def __init__(self, *_: object) -> None:
        """Take what a ``ThreadPoolExecutor`` takes."""

    def submit(self, function: Callable[..., bool], *args: Any) -> Future[bool]:
        future = Future[bool]()
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self) -> None:
        """Nothing runs."""


@dataclass
class Runner:
    """Runs scenarios on one of the ranks."""

    base: SharedBase
    initial_home: Path
    """The home that is copied for each run."""
    ids: dict[str, str]
    out: Path

    def run(
        self, name: str, scenario: Scenario, *faults: Fault, at_point: Callable[[str], None] = lambda _: None
    ) -> Record:
        """Run ``scenario`` in the home ``name`` with one fault per rank. Each rank writes its record there.

        ``at_point`` is called with each call and each event. It may kill this process, after it has made the file
        ``KILLED`` in the home. Then the same call in a new group of processes goes on with what was left.
        """
        rank, home = dist.get_rank(), self.out / name
        self.base.max_tokens_per_pass = scenario.max_tokens_per_pass
        resumed = (home / KILLED).exists()
        if rank == 0 and not resumed:
            shutil.rmtree(home, ignore_errors=True)  # the group may have ended while the home was copied
            shutil.copytree(self.initial_home, home)
        dist.barrier()
        record, settings = Record(), load_settings(home=home)
        catalog, numbers = Catalog.open(settings), count(1)
        if rank == 0 and resumed:
            catalog.release(catalog.list_leased("me"), "me", crashed=True)
        fault = faults[rank] if rank < len(faults) else no_fault

        def before(call: str) -> bytes | None:
            for job_name, id in self.ids.items():
                call = call.replace(id, job_name)
            record.calls.append(call)
            at_point(call)
            return fault(catalog, self.ids, next(numbers), call)

        def record_event(event: str) -> None:
            record.events.append(event)
            at_point(event)

        their_catalog = cast(Catalog, Intercepted(catalog, before))
        their_store = cast(ObjectStore, Intercepted(ObjectStore.open(settings), before))
        trainer = TrainerContext(self.base, their_catalog, their_store, owner="me", max_rank=16)
        try:
            with recording(record_event), patch.object(checkpoint_writer, "ThreadPoolExecutor", RunAtOnce):
                self._run(trainer, catalog, scenario, resumed=resumed)
        except Exception as error:
            record.raised = f"{type(error).__name__}: {error}"
        finally:
            for job_name, id in self.ids.items():
                job = catalog.get_consolidation(id)
                record.states[job_name], record.reasons[job_name] = job.state, job.reason
                record.leased += [job_name] if job.owner else []
            catalog.close()
            (home / f"rank-{rank}.json").write_text(json.dumps(asdict(record)))
        if record.raised and not record.raised.startswith("StoreUnavailable"):
            raise OutOfSync(f"{name}: rank {rank} raised {record.raised}")
        return record

    def _run(self, trainer: TrainerContext, catalog: Catalog, scenario: Scenario, *, resumed: bool) -> None:
        claims, polls, readings = iter(scenario.claims), count(1), count()

        def claim(limit: int) -> list[Consolidation]:
            if resumed:
                return catalog.claim("me", QueueStage.TRAINING, limit=limit, lease_s=600)
            return [catalog.get_consolidation(self.ids[name]) for name in next(claims, ())]

        run_trainer(
            trainer,
            claim,
            should_stop=lambda: next(polls) == scenario.stopped_at,
            clock=lambda: float(next(readings)),  # polls the queue after each pass
            max_members=8,
            checkpoint_interval_s=scenario.checkpoint_interval_s,
            lease_s=600.0,
            idle_timeout_s=0.0,
        )


class OutOfSync(Exception):
    """The ranks are no longer at the same point, so no other run can follow."""


def no_fault(catalog: Catalog, ids: dict[str, str], number: int, call: str) -> None:
    """No fault."""


def cancel_before(job: str, chosen: int) -> Fault:
    def fault(catalog: Catalog, ids: dict[str, str], number: int, call: str) -> None:
        if number == chosen:
            catalog.cancel(ids[job])

    return fault


def fail_at(part_of_call: str, error: Exception) -> Fault:
    def fault(catalog: Catalog, ids: dict[str, str], number: int, call: str) -> None:
        if part_of_call in call:
            raise error

    return fault


def return_at(part_of_call: str, content: bytes) -> Fault:
    """Return a fault that returns ``content`` instead of what the store has."""
    return lambda catalog, ids, number, call: content if part_of_call in call else None


READ_FAULTS: dict[str, Fault] = {
    "missing": fail_at("ObjectStore.get(examples/red/train", NotFound("the object is missing")),
    "garbled": return_at("ObjectStore.get(examples/red/train", b"PAR1 and no more"),
    "torn": return_at("ObjectStore.get(checkpoints/red/step-00000001/state", b"damaged, too"),
    "gone": fail_at("ObjectStore.get(checkpoints/red/step-00000001/state", NotFound("the object is missing")),
    "down": fail_at("ObjectStore.get(examples/red/train", StoreUnavailable("down")),
}
"""Faults on one rank only."""

STORE_FULL: dict[str, Fault] = {
    "checkpoint": fail_at("ObjectStore.put(checkpoints/red/step-00000002", StoreFull("full")),
    "candidate": fail_at("ObjectStore.put(checkpoints/red/candidate", StoreFull("full")),
}


def first_of_each_kind(calls: Iterable[str]) -> list[str]:
    """Select one call of each kind, for whichever job. Leave out ``release``: leases that are not released expire."""
    kinds: dict[str, str] = {}
    for call in calls:
        kinds.setdefault(re.sub("red|green|blue", "job", call), call)
    return [call for call in kinds.values() if "release" not in call]


def cancel_points(scenario: str, job: str, calls: list[str]) -> range:
    """Return the numbers, from 1 on, of the ``calls`` before which ``job`` is cancelled, each in a separate run."""
    first, last = 1, len(calls)
    if job == "green":
        first = calls.index("ObjectStore.exists(checkpoints/green/candidate/scores.json)") + 1
        last = calls.index("Catalog.hand_over(green)") + 1
    elif scenario == "sharded":  # all ranks examine a member that has taken its last step
        first = calls.index("ObjectStore.get(examples/red/holdout.windows.parquet)")
        last = calls.index("Catalog.list_sibling_versions(acme/red)") + 1
    elif scenario == "paused":  # before that and after it, nothing is paused
        first = calls.index("ObjectStore.exists(checkpoints/blue/candidate/scores.json)") + 1
        last = calls.index("ObjectStore.get(examples/blue/holdout.windows.parquet)") + 1
    return range(first, last + 1)


def run_rank(rank: int, base_dir: Path, initial_home: Path, ids: dict[str, str], out: Path) -> None:
    """Run one of two ranks in its own process."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{out}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_S),
    )
    runner = Runner(SharedBase(base_dir, FLOAT32), initial_home, ids, out)
    try:
        _run_all(runner)
        runner.base = SharedBase(base_dir, FLOAT32, sharded=True)
        _run_cancelled(runner, "sharded", BESIDE, "red")
    except OutOfSync as error:
        print(error, flush=True)
    dist.destroy_process_group()


def _run_all(runner: Runner) -> None:
    runner.run("alone/whole", ALONE)
    beside = _run_cancelled(runner, "beside", BESIDE, "red", "green")
    for name, fault in READ_FAULTS.items():
        runner.run(f"rank-0/{name}", BESIDE, fault)
        runner.run(f"rank-1/{name}", BESIDE, no_fault, fault)
    for name, fault in STORE_FULL.items():
        runner.run(f"full/{name}", BESIDE, fault)
    for number, call in enumerate(first_of_each_kind(beside)):
        runner.run(f"down/{number}", BESIDE, fail_at(call, StoreUnavailable("down")))
    runner.run("stopped/whole", STOPPED)
    _run_cancelled(runner, "paused", PAUSED, "red")


def _run_cancelled(runner: Runner, name: str, scenario: Scenario, *jobs: str) -> list[str]:
    """Run without a fault, and with each of ``jobs`` cancelled at each point; return rank 0's calls of the former."""
    calls = [runner.run(f"{name}/whole", scenario).calls]
    dist.broadcast_object_list(calls, src=0)
    for job in jobs:
        for number in cancel_points(name, job, calls[0]):
            runner.run(f"{name}/{job}/{number}", scenario, cancel_before(job, number))
    return calls[0]
