"""Two workers that share the base model finish a job with every strategy: whatever computes on it runs on both."""

import os
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.training import checkpoint
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


def run_rank(rank: int, settings: Settings, base_dir: Path, jobs: list[Consolidation], rendezvous: Path) -> None:
    """Run one of the two ranks."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    where, hung_after = f"file://{rendezvous}", timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=where, rank=rank, world_size=2, timeout=hung_after)
    catalog, base = Catalog.open(settings), SharedBase(base_dir, FLOAT32, sharded=True)
    trainer = TrainerContext(base, catalog, ObjectStore.open(settings), owner="me", max_rank=16)
    train_jobs(jobs, trainer, max_members=len(jobs))
    catalog.close()
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize(
    "strategies", [COMPUTING, pytest.param(EVERY, marks=pytest.mark.bench)], ids=["computing", "every"]
)
def test_strategies_finish_two_sessions_on_a_sharded_base(
    base_dir: Path, catalog: Catalog, store: ObjectStore, settings: Settings, tmp_path: Path, strategies: dict[str, str]
) -> None:
    trainer = TrainerContext(SharedBase(base_dir, FLOAT32), catalog, store, owner="me", max_rank=16)
    recipe = {"max_steps": 2, "batch_size": 2, "target_modules": ("q_proj",)}
    for session in range(2):
        for name, strategy in strategies.items():
            submit_job(trainer, name, first=10 * session, count=3, strategy=strategy, **recipe)
        jobs = claim(trainer)
        assert len(jobs) == len(strategies)
        arguments = (settings, base_dir, jobs, tmp_path / f"rendezvous-{session}")
        torch.multiprocessing.spawn(run_rank, arguments, nprocs=2)
        for job in jobs:
            now = catalog.get_consolidation(job.id)
            assert now.state is ConsolidationState.EVALUATING, f"{job.instance}: {now.reason}"
            assert checkpoint.load_candidate(store, job.id).weights
        publish(trainer, trainer.base.revision)
