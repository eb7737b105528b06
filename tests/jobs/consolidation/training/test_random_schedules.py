"""A hundred random schedules on two and four workers: what happens to one member leaves the others as they were alone.

In each, blue joins, and red and green with it or later, with passes of a random size. Red or green is cancelled,
loses its examples or its checkpoint, or finds the store full, before a random call of any worker. Blue is always
trained to the end.
"""

import os
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest
import torch
import torch.distributed as dist

from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.platform.catalog import Catalog
from looper.platform.domain.errors import NotFound, StoreFull
from looper.platform.domain.states import ConsolidationState
from tests.jobs.consolidation.training.test_two_ranks import Runs, prepare_home
from tests.jobs.consolidation.training.two_ranks import (
    ALONE,
    COLLECTIVE_TIMEOUT_S,
    Fault,
    OutOfSync,
    Runner,
    Scenario,
    no_fault,
)
from tests.tiny import FLOAT32

SCHEDULES = 100
MAX_CALLS = 40
"""About as many calls as a rank makes in a run."""


def draw_scenario(rng: Random) -> Scenario:
    names = ["red", "green"]
    rng.shuffle(names)
    first = ["blue", *(names.pop() for _ in range(rng.randint(0, 2)))]  # a trainer without a member ends
    rng.shuffle(first)
    claims = [tuple(first)]
    while names:
        claims += [()] * rng.randint(0, 2)
        claims.append(tuple(names.pop() for _ in range(rng.randint(1, len(names)))))
    return Scenario(tuple(claims), rng.choice([16, 64, 1024]))


def draw_fault(rng: Random) -> Fault:
    """Return something that happens to red or green before one call."""
    victim, chosen = rng.choice(["red", "green"]), rng.randint(1, MAX_CALLS)
    faults = [("get", NotFound("gone")), ("get", ValueError("unexpected")), ("put", StoreFull("full"))]
    verb, error = rng.choice([("", None), ("", None), *faults])

    def fault(catalog: Catalog, ids: dict[str, str], number: int, call: str) -> None:
        if error is None and number == chosen:
            catalog.cancel(ids[victim])
        # Only what is about the victim alone fails: a call about all is the store's failure.
        elif error is not None and number >= chosen and f"ObjectStore.{verb}(" in call and f"/{victim}" in call:
            raise error

    return fault


def run_worker(rank: int, world: int, base_dir: Path, initial_home: Path, ids: dict[str, str], out: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    torch.set_num_threads(1)
    rendezvous = f"file://{out}/rendezvous"
    timeout = timedelta(seconds=COLLECTIVE_TIMEOUT_S)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world, timeout=timeout)
    runner = Runner(SharedBase(base_dir, FLOAT32), initial_home, ids, out)
    try:
        runner.run("alone/whole", ALONE)
        for seed in range(SCHEDULES):
            rng = Random(seed)
            faults: list[Fault] = [no_fault] * world
            faults[rng.choice([0, 0, rng.randrange(world)])] = draw_fault(rng)
            runner.run(f"random/{seed}", draw_scenario(rng), *faults)
    except OutOfSync as error:
        print(error, flush=True)
    dist.destroy_process_group()


@pytest.mark.bench
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("world", [2, 4])
def test_what_happens_to_one_member_leaves_the_others_as_alone(
    world: int, base_dir: Path, one_process: None, tmp_path: Path
) -> None:
    initial_home, out = tmp_path / "initial", tmp_path / "runs"
    ids = prepare_home(initial_home, SharedBase(base_dir, FLOAT32))
    out.mkdir()
    torch.multiprocessing.spawn(run_worker, (world, base_dir, initial_home, ids, out), nprocs=world)
    runs = Runs(out, ids, world)
    ended = set()
    for seed in range(SCHEDULES):
        record = runs[f"random/{seed}"]
        assert record.raised is None, f"seed {seed}"
        assert record.states["blue"] == ConsolidationState.EVALUATING, f"seed {seed}"
        assert runs.difference(f"random/{seed}", "blue", "alone/whole") < 1e-4, f"seed {seed}"
        ended |= {record.states["red"], record.states["green"]}
    assert ended >= {ConsolidationState.EVALUATING, ConsolidationState.CANCELLED, ConsolidationState.FAILED}
