"""Two ranks of a trainer, in two processes, run many short trainings with injected faults; each records what it does.

All runs start from the same state: red has a checkpoint, and a newer one that is torn; green is trained and only waits
to be handed over; blue is new. Training is in float32 on a tiny base: a run takes a fraction of a second.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import torch
import torch.distributed as dist

from looper.jobs.consolidation.shared_base import SharedBase
from looper.jobs.consolidation.step import Step
from looper.jobs.consolidation.tenant import Tenant
from looper.jobs.consolidation.trainer import Trainer, run
from looper.platform.catalog import Catalog
from looper.platform.domain.errors import NotFound, StoreFull, StoreUnavailable
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import load_settings
from tests.tiny import FLOAT32

SEEDS = {"red": 1, "green": 2, "blue": 3}
"""Of the recipes: a tenant is known by its seed."""

HANG_S = 30.0
"""A collective that takes longer has hung."""

Fault = Callable[[Catalog, dict[str, str], int, str], bytes | None]
"""Called before each call of a rank to its catalog or store: with that catalog, the ids by name, the call's number from
1 on, and the call as text. If it returns bytes, the call returns these instead."""


@dataclass(frozen=True)
class Scenario:
    claims: tuple[tuple[str, ...], ...]
    """What each look at the queue finds."""
    tokens_at_once: int
    stopped_at: int | None = None
    """The look at which the trainer is told to stop."""


ALONE = Scenario((("blue",),), 1024)
BESIDE = Scenario((("red", "green", "blue"),), 1024)
"""Red and blue take each step together, in one pass."""
PAUSED = Scenario((("red",), ("blue",)), 16)
"""Steps take several passes. Red's first pauses for blue's."""
STOPPED = Scenario((("red", "blue"),), 1024, stopped_at=2)


@dataclass
class Record:
    """What one rank did in a run, and what the catalog says afterwards."""

    events: list[str] = field(default_factory=list)
    """Each step that began, with its members; each step a member took; each member closed."""
    calls: list[str] = field(default_factory=list)
    """To catalog and store."""
    raised: str | None = None
    states: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str | None] = field(default_factory=dict)
    held: list[str] = field(default_factory=list)
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
def recording(events: list[str]) -> Iterator[None]:
    """Record the steps of members into ``events``."""
    names = {seed: name for name, seed in SEEDS.items()}
    begin, advance, close = Step.__init__, Tenant.advance, Tenant.close

    def recorded_begin(step: Step, base: SharedBase, tenants: Any) -> None:
        events.append("step of " + ", ".join(names[tenant.recipe.seed] for tenant in tenants))
        begin(step, base, tenants)

    def recorded_advance(tenant: Tenant, *args: Any) -> None:
        events.append(f"{names[tenant.recipe.seed]} takes step {tenant.step + 1}")
        advance(tenant, *args)

    def recorded_close(tenant: Tenant) -> None:
        events.append(f"{names[tenant.recipe.seed]} is closed")
        close(tenant)

    with (
        patch.object(Step, "__init__", recorded_begin),
        patch.object(Tenant, "advance", recorded_advance),
        patch.object(Tenant, "close", recorded_close),
    ):
        yield


@dataclass
class Runner:
    """Runs scenarios on one of the two ranks."""

    base: SharedBase
    beginning: Path
    """The home that is copied for each run."""
    ids: dict[str, str]
    out: Path

    def run(self, name: str, scenario: Scenario, *faults: Fault) -> Record:
        """Run ``scenario`` with one fault for each rank, in the home ``name``; each rank's record is written there."""
        rank, home = dist.get_rank(), self.out / name
        self.base.tokens_at_once = scenario.tokens_at_once
        if rank == 0:
            shutil.copytree(self.beginning, home)
        dist.barrier()
        record, settings = Record(), load_settings(home=home)
        catalog, numbers = Catalog.open(settings), count(1)
        fault = faults[rank] if rank < len(faults) else nothing

        def before(call: str) -> bytes | None:
            for known, id in self.ids.items():
                call = call.replace(id, known)
            record.calls.append(call)
            return fault(catalog, self.ids, next(numbers), call)

        their_catalog = cast(Catalog, Intercepted(catalog, before))
        their_store = cast(ObjectStore, Intercepted(ObjectStore.open(settings), before))
        trainer = Trainer(self.base, their_catalog, their_store, owner="me", max_rank=16)
        try:
            with recording(record.events):
                self._run(trainer, catalog, scenario)
        except Exception as error:
            record.raised = f"{type(error).__name__}: {error}"
        finally:
            for known, id in self.ids.items():
                job = catalog.consolidation(id)
                record.states[known], record.reasons[known] = job.state, job.reason
                record.held += [known] if job.owner else []
            catalog.close()
            (home / f"rank-{rank}.json").write_text(json.dumps(asdict(record)))
        if record.raised and not record.raised.startswith("StoreUnavailable"):
            raise OutOfStep(f"{name}: rank {rank} raised {record.raised}")
        return record

    def _run(self, trainer: Trainer, catalog: Catalog, scenario: Scenario) -> None:
        looks, ends, readings = iter(scenario.claims), count(1), count()
        run(
            trainer,
            lambda _: [catalog.consolidation(self.ids[name]) for name in next(looks, ())],
            stopped=lambda: next(ends) == scenario.stopped_at,
            clock=lambda: float(next(readings)),  # a look and a checkpoint after each pass
            members_at_most=8,
            checkpoint_s=0.0,
            lease_s=600.0,
            idle_s=0.0,
        )


class OutOfStep(Exception):
    """The ranks are no longer at the same point: no run can follow."""


def nothing(catalog: Catalog, ids: dict[str, str], number: int, call: str) -> None:
    """No fault."""


def cancels(job: str, chosen: int) -> Fault:
    def fault(catalog: Catalog, ids: dict[str, str], number: int, call: str) -> None:
        if number == chosen:
            catalog.cancel(ids[job])

    return fault


def fails(part_of_call: str, error: Exception) -> Fault:
    def fault(catalog: Catalog, ids: dict[str, str], number: int, call: str) -> None:
        if part_of_call in call:
            raise error

    return fault


def reads(part_of_call: str, content: bytes) -> Fault:
    """Returns ``content`` instead of what the store has."""
    return lambda catalog, ids, number, call: content if part_of_call in call else None


READ_FAULTS: dict[str, Fault] = {
    "missing": fails("ObjectStore.get(examples/red/train", NotFound("it is not there")),
    "garbled": reads("ObjectStore.get(examples/red/train", b"PAR1 and no more"),
    "torn": reads("ObjectStore.get(checkpoints/red/step-00000001/state", b"torn, too"),
    "gone": fails("ObjectStore.get(checkpoints/red/step-00000001/state", NotFound("it is not there")),
    "down": fails("ObjectStore.get(examples/red/train", StoreUnavailable("down")),
}
"""Faults of one rank only."""

STORE_FULL: dict[str, Fault] = {
    "checkpoint": fails("ObjectStore.put(checkpoints/red/step-00000002", StoreFull("full")),
    "candidate": fails("ObjectStore.put(checkpoints/red/candidate", StoreFull("full")),
}


def distinct(calls: Iterable[str]) -> list[str]:
    """One of each kind of ``calls``, whichever job it is for. Not the last: leases that cannot be released run out."""
    kinds: dict[str, str] = {}
    for call in calls:
        kinds.setdefault(re.sub("red|green|blue", "job", call), call)
    return [call for call in kinds.values() if "release" not in call]


def cancel_points(scenario: str, job: str, calls: list[str]) -> range:
    """The numbers, from 1 on, of the ``calls`` before which ``job`` is cancelled, each in a run of its own."""
    first, last = 1, len(calls)
    if job == "green":
        first = calls.index("ObjectStore.exists(checkpoints/green/candidate/scores.json)") + 1
        last = calls.index("Catalog.hand_over(green)") + 1
    elif scenario == "sharded":  # all ranks examine a member that has taken its last step
        first = calls.index("ObjectStore.get(examples/red/holdout.parquet)")
        last = calls.index("Catalog.neighbours(acme/red)") + 1
    elif scenario == "paused":  # before that and after it, nothing is paused
        first = calls.index("ObjectStore.exists(checkpoints/blue/candidate/scores.json)") + 1
        last = calls.index("ObjectStore.get(examples/blue/holdout.parquet)") + 1
    return range(first, last + 1)


def work(rank: int, base_dir: Path, beginning: Path, ids: dict[str, str], out: Path) -> None:
    """One of two ranks, in a process of its own."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{out}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=HANG_S),
    )
    runner = Runner(SharedBase(base_dir, FLOAT32), beginning, ids, out)
    try:
        _run_all(runner)
        runner.base = SharedBase(base_dir, FLOAT32, sharded=True)
        _run_cancelled(runner, "sharded", BESIDE, "red")
    except OutOfStep as error:
        print(error, flush=True)
    dist.destroy_process_group()


def _run_all(runner: Runner) -> None:
    runner.run("alone/whole", ALONE)
    beside = _run_cancelled(runner, "beside", BESIDE, "red", "green")
    for name, fault in READ_FAULTS.items():
        runner.run(f"rank-0/{name}", BESIDE, fault)
        runner.run(f"rank-1/{name}", BESIDE, nothing, fault)
    for name, fault in STORE_FULL.items():
        runner.run(f"full/{name}", BESIDE, fault)
    for number, call in enumerate(distinct(beside)):
        runner.run(f"down/{number}", BESIDE, fails(call, StoreUnavailable("down")))
    runner.run("stopped/whole", STOPPED)
    _run_cancelled(runner, "paused", PAUSED, "red")


def _run_cancelled(runner: Runner, name: str, scenario: Scenario, *jobs: str) -> list[str]:
    """Run without a fault, and with each of ``jobs`` cancelled at each point; return rank 0's calls of the former."""
    calls = [runner.run(f"{name}/whole", scenario).calls]
    dist.broadcast_object_list(calls, src=0)
    for job in jobs:
        for number in cancel_points(name, job, calls[0]):
            runner.run(f"{name}/{job}/{number}", scenario, cancels(job, number))
    return calls[0]
