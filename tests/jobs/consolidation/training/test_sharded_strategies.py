"""Two workers that share the base model finish a job with every strategy: whatever computes on it runs on both."""

import os
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.training.collective import run_on_rank0
from looper.jobs.consolidation.training.trainer_context import TrainerContext
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.states import ConsolidationState
from looper.platform.domain.strategy import STRATEGY_NAMES
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings
from tests.jobs.consolidation.training.test_trainer import claim, publish, submit_job, train_jobs
from tests.tiny import FLOAT32

QUICK = "online-lora(mean=100,variance=100,length=2)"
"""On a plateau after two steps, so that it computes on the base model in the middle of the training, too."""

EVERY = {name: QUICK if name == "online-lora" else name for name in STRATEGY_NAMES}

COMPUTING = {
    "one": "ewc+replay-loss",
    "two": "online-ewc+distill",
    "three": "online-ewc-factors",
    "four": QUICK,
}
"""The strategies that compute on the base model themselves, in few jobs."""


def run_rank(rank: int, settings: Settings, base_dir: Path, strategies: dict[str, str], rendezvous: Path) -> None:
    """Run one of the two ranks through two sessions of an instance for each strategy."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    where, hung_after = f"file://{rendezvous}", timedelta(seconds=120)
    dist.init_process_group("gloo", init_method=where, rank=rank, world_size=2, timeout=hung_after)
    catalog, base = Catalog.open(settings), SharedBase(base_dir, FLOAT32, sharded=True)
    trainer = TrainerContext(base, catalog, ObjectStore.open(settings), owner="me", max_rank=16)
    for session in range(2):
        jobs = run_on_rank0(partial(submit_all, trainer, strategies, 10 * session))
        train_jobs(jobs, trainer, max_members=len(jobs))
        run_on_rank0(partial(publish, trainer, base.revision))
    catalog.close()
    dist.destroy_process_group()


def submit_all(trainer: TrainerContext, strategies: dict[str, str], first: int) -> list[Consolidation]:
    """Submit and claim a job for each strategy."""
    for name, strategy in strategies.items():
        recipe: dict[str, Any] = {"max_steps": 2, "batch_size": 2, "target_modules": ("q_proj",)}
        submit_job(trainer, name, first=first, count=3, strategy=strategy, **recipe)
    return claim(trainer)


@pytest.mark.parametrize(
    "strategies", [COMPUTING, pytest.param(EVERY, marks=pytest.mark.bench)], ids=["computing", "every"]
)
def test_strategies_finish_two_sessions_on_a_sharded_base(
    base_dir: Path, catalog: Catalog, settings: Settings, tmp_path: Path, strategies: dict[str, str]
) -> None:
    arguments = (settings, base_dir, strategies, tmp_path / "rendezvous")
    torch.multiprocessing.spawn(run_rank, arguments, nprocs=2)
    jobs = catalog.list_consolidations()
    assert len(jobs) == 2 * len(strategies)
    for job in jobs:
        assert job.state is ConsolidationState.PUBLISHED, f"{job.instance}: {job.reason}"
    assert sum(job.parent is not None for job in jobs) == len(strategies), (
        "a second session did not start from the first"
    )
