"""Random schedules on two and four workers: whatever happens to one member, the others are as if trained alone.

In each schedule, blue joins first, and red and green with it or later, with passes of a random size. Red or green, the
victim, is cancelled, or what it reads is gone or damaged, or what it writes does not fit, or its step fails, or its
gradients are not finite on one rank. In some schedules a rank is killed, too. That ends the whole group, and a new one
resumes what was left, as Ray Train has it. In some, the ranks share the base model.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from pathlib import Path
from random import Random
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.training.fused_step import FusedStep
from looper.platform.catalog import Catalog
from looper.platform.domain.errors import Conflict, InvalidInput, NotFound, StoreFull
from looper.platform.domain.states import ConsolidationState
from tests.jobs.consolidation.training.test_two_ranks import Runs, prepare_home
from tests.jobs.consolidation.training.two_ranks import (
    ALONE,
    COLLECTIVE_TIMEOUT_S,
    KILLED,
    SEEDS,
    Fault,
    OutOfSync,
    Runner,
    Scenario,
    no_fault,
)
from tests.tiny import FLOAT32

KINDS = ("cancel", "missing", "step", "full", "cancel", "damaged", "nan", "unwritable", "cancel", "unreadable")
"""What happens to the victim, in turn."""

MAX_POLLS = 3
"""The trainer looks so often at the queue before it ends, if blue is its only member."""

CALLS, EVENTS = (66, 6), 11
"""About as many calls do rank 0 and each other rank make in a run, and so many events has each."""


@dataclass(frozen=True)
class Schedule:
    """What happens in one run."""

    scenario: Scenario
    sharded: bool
    """Whether the ranks share the base model."""
    victim: str
    kind: str
    """What happens to the victim."""
    rank: int
    """Where it happens."""
    number: int
    """Before which call it happens, or from which on; for a step that fails, its number."""
    killed: tuple[int, int] | None
    """The rank that is killed, and before which of its calls and events."""


def draw(seed: int, world: int) -> Schedule:
    """Draw a schedule. The same seed and number of ranks give the same one."""
    rng, kind = Random(seed), KINDS[seed % len(KINDS)]
    claims = [["blue"], *([] for _ in range(1, MAX_POLLS))]  # a trainer without a member ends
    for name in ("red", "green"):
        claimed_with = claims[rng.choice([0, rng.randrange(MAX_POLLS)])]
        claimed_with.insert(rng.randint(0, len(claimed_with)), name)
    scenario = Scenario(
        tuple(map(tuple, claims)), rng.choice([16, 64, 1024]), checkpoint_interval_s=rng.choice([0.0, 0.0, 1e6])
    )
    # Only rank 0 writes. A step fails on all ranks, or the group would end.
    rank = 0 if kind in ("full", "unwritable", "step") else rng.choice([0, rng.randrange(world)])
    number = rng.randint(2, 3) if kind == "step" else rng.choice([1, rng.randint(1, CALLS[rank > 0])])
    killed = rng.randrange(world)
    return Schedule(
        scenario,
        sharded=rng.random() < 0.25,
        victim=rng.choice(["red", "green"]) if kind == "cancel" else "red",  # green is trained already
        kind=kind,
        rank=rank,
        number=number,
        killed=(killed, rng.randint(1, CALLS[killed > 0] + EVENTS)) if rng.random() < 0.25 else None,
    )


def make_fault(schedule: Schedule) -> Fault:
    """Return what happens at the calls of the rank."""
    verb, what = {
        "missing": ("get", NotFound("gone")),
        "unreadable": ("get", ValueError("unexpected")),
        "damaged": ("get", b"damaged"),
        "full": ("put", StoreFull("full")),
        "unwritable": ("put", ValueError("unexpected")),
    }.get(schedule.kind, ("", None))

    def fault(catalog: Catalog, ids: dict[str, str], number: int, call: str) -> bytes | None:
        if schedule.kind == "cancel" and number == schedule.number:
            with suppress(Conflict):  # it was cancelled before the group was killed
                catalog.cancel(ids[schedule.victim])
        # Only what is about the victim alone fails: a call about all is the store's failure.
        if not verb or number < schedule.number or f"ObjectStore.{verb}(" not in call:
            return None
        if f"/{schedule.victim}" not in call:
            return None
        if isinstance(what, Exception):
            raise what
        return what

    return fault


def make_points(schedule: Schedule, home: Path) -> Callable[[str], None]:
    """Return what happens at the calls and events of this rank: its death, once, or a step that fails on all ranks."""
    numbers = count(1)

    def at_point(point: str) -> None:
        if (dist.get_rank(), next(numbers)) == schedule.killed and not (home / KILLED).exists():
            (home / KILLED).write_text(point)
            os.kill(os.getpid(), signal.SIGKILL)
        if schedule.kind == "step" and point == f"{schedule.victim} takes step {schedule.number}":
            raise InvalidInput("the step failed")

    return at_point


@contextmanager
def diverging(schedule: Schedule) -> Iterator[None]:
    """On one rank, make the gradients of the victim's steps NaN."""
    results = FusedStep.results

    def with_nan(step: FusedStep) -> list[tuple[float, list[Tensor]]]:
        for session, gradients in zip(step._sessions, step._gradients, strict=True):
            if session.recipe.seed == SEEDS[schedule.victim]:
                gradients[0].fill_(torch.nan)
        return results(step)

    if schedule.kind == "nan" and schedule.rank == dist.get_rank():
        with patch.object(FusedStep, "results", with_nan):
            yield
    else:
        yield


@dataclass(frozen=True)
class Trial:
    """What every rank of every group is given."""

    world: int
    schedules: int
    base_dir: Path
    initial_home: Path
    ids: dict[str, str]
    out: Path

    def is_complete(self, name: str) -> bool:
        """Whether all ranks have written their records of a run."""
        return all((self.out / name / f"rank-{rank}.json").exists() for rank in range(self.world))

    def killed(self) -> int:
        """Return in how many runs a rank was killed."""
        return len(list(self.out.glob(f"*/*/{KILLED}")))


def run_groups(_: int, trial: Trial) -> None:
    """Run groups of ranks, until one comes to the end of all schedules.

    In a process of its own, which has imported everything and computed no gradient. It forks the ranks: otherwise,
    each would import for several seconds, and they would wait for one another.
    """
    torch.set_num_threads(1)
    base = SharedBase(trial.base_dir, FLOAT32)
    for group in count():
        killed = trial.killed()
        try:
            torch.multiprocessing.start_processes(
                run_rank, (trial, base, group), nprocs=trial.world, start_method="fork"
            )
        except (ProcessExitedException, ProcessRaisedException):  # whichever rank ended first
            if trial.killed() == killed:
                raise
        else:
            return


def run_rank(rank: int, trial: Trial, base: SharedBase, group: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(trial.world)}
    rendezvous = f"file://{trial.out}/rendezvous-{group}"
    timeout = timedelta(seconds=COLLECTIVE_TIMEOUT_S)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=trial.world, timeout=timeout)
    runner = Runner(base, trial.initial_home, trial.ids, trial.out)
    sharded: SharedBase | None = None
    try:
        if group == 0:
            runner.run("alone/blue", ALONE)
            runner.run("alone/red", Scenario((("red",),), 1024))
        for seed in range(trial.schedules):
            name = f"random/{seed}"
            if trial.is_complete(name):
                continue
            schedule = draw(seed, trial.world)
            if schedule.sharded and sharded is None:
                sharded = SharedBase(trial.base_dir, FLOAT32, sharded=True)
            runner.base = sharded if schedule.sharded and sharded is not None else base
            faults: list[Fault] = [no_fault] * trial.world
            faults[schedule.rank] = make_fault(schedule)
            with diverging(schedule):
                runner.run(name, schedule.scenario, *faults, at_point=make_points(schedule, trial.out / name))
    except OutOfSync as error:
        print(error, flush=True)
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("world", "schedules"),
    [
        (2, 10),
        pytest.param(2, 100, marks=[pytest.mark.bench, pytest.mark.timeout(3600)]),
        pytest.param(4, 100, marks=[pytest.mark.bench, pytest.mark.timeout(3600)]),
    ],
)
def test_what_happens_to_one_member_leaves_the_others_as_alone(
    world: int, schedules: int, base_dir: Path, one_process: None, tmp_path: Path
) -> None:
    initial_home, out = tmp_path / "initial", tmp_path / "runs"
    ids = prepare_home(initial_home, SharedBase(base_dir, FLOAT32))
    out.mkdir()
    trial = Trial(world, schedules, base_dir, initial_home, ids, out)
    torch.multiprocessing.spawn(run_groups, (trial,), nprocs=1)
    runs, ends = Runs(out, ids, world), set()
    for seed in range(schedules):
        name, schedule = f"random/{seed}", draw(seed, world)
        record = runs[name]
        assert record.raised is None, f"{name}: {schedule}"
        for job, state in record.states.items():
            if job == schedule.victim:
                ends.add(state)
            else:
                assert state == ConsolidationState.EVALUATING, f"{name}: {job}, {schedule}"
            if job != "green" and state == ConsolidationState.EVALUATING and (job, schedule.kind) != ("red", "nan"):
                difference = runs.difference(name, job, f"alone/{job}")
                assert difference < 1e-4, f"{name}: {job} differs by {difference}, {schedule}"
    assert ends >= {ConsolidationState.EVALUATING, ConsolidationState.CANCELLED, ConsolidationState.FAILED}
    assert trial.killed()
