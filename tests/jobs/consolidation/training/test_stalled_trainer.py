"""A trainer of two processes, one of which hangs: it is killed, and its work is taken over from the checkpoint."""

import os
import signal
import threading
import time
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.training import checkpoint
from looper.jobs.consolidation.training.fused_step import FusedStep
from looper.jobs.consolidation.training.trainer import run_trainer
from looper.jobs.consolidation.training.trainer_context import TrainerContext
from looper.jobs.queue.progress import ProgressCounter
from looper.jobs.queue.watchdog import StallWatchdog
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.states import ConsolidationState, QueueStage
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings
from tests.jobs.consolidation.training.test_trainer import claim, submit_job, train_jobs
from tests.tiny import FLOAT32

TIMEOUT_S = 4.0
"""Seconds without progress after which the trainer is killed."""

SOON_S = 400.0
"""Seconds after which the test has failed. A hung collective waits for far longer."""


def run_rank(rank: int, settings: Settings, base_dir: Path, rendezvous: Path) -> None:
    """Run one of the two ranks. Rank 1 hangs in its third pass, so rank 0 waits for it in a collective."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    where = f"file://{rendezvous}"
    dist.init_process_group("gloo", init_method=where, rank=rank, world_size=2, timeout=timedelta(seconds=10 * SOON_S))
    passes, run_pass = [0], FusedStep.run_pass

    def hang_in_third(step: FusedStep) -> bool:
        passes[0] += 1
        if rank == 1 and passes[0] == 3:
            threading.Event().wait()
        return run_pass(step)

    catalog, progress = Catalog.open(settings), ProgressCounter()
    base, store = SharedBase(base_dir, FLOAT32), ObjectStore.open(settings)
    trainer = TrainerContext(base, catalog, store, owner="hung", max_rank=16, progress=progress)

    def claim_training(limit: int) -> list[Consolidation]:
        return catalog.claim("hung", QueueStage.TRAINING, limit=limit, lease_s=TIMEOUT_S)

    def train() -> None:
        with patch.object(FusedStep, "run_pass", hang_in_third):
            run_trainer(
                trainer,
                claim_training,
                should_stop=lambda: False,
                max_members=4,
                checkpoint_interval_s=0.0,
                lease_s=TIMEOUT_S,
                progress_timeout_s=TIMEOUT_S,
                idle_timeout_s=600.0,
            )

    if rank == 1:
        train()
    with StallWatchdog(progress, start_timeout_s=SOON_S, timeout_s=TIMEOUT_S):
        train()


@pytest.mark.usefixtures("one_process")
def test_a_hung_trainer_is_killed_and_its_work_goes_on_from_the_checkpoint(
    base_dir: Path, catalog: Catalog, store: ObjectStore, settings: Settings, tmp_path: Path
) -> None:
    trainer = TrainerContext(SharedBase(base_dir, FLOAT32), catalog, store, owner="me", max_rank=16)
    submit_job(trainer, "red")
    (job,) = claim(trainer)
    catalog.release([job.id], "me")
    arguments = (settings, base_dir, tmp_path / "rendezvous")
    context = torch.multiprocessing.get_context("spawn")
    ranks = [context.Process(target=run_rank, args=(rank, *arguments), daemon=True) for rank in range(2)]
    for rank in ranks:
        rank.start()
    ranks[0].join(SOON_S)
    ranks[1].kill()
    ranks[1].join()
    assert ranks[0].exitcode == -signal.SIGKILL, "rank 0 still waits for rank 1"

    end = time.monotonic() + SOON_S
    while not (taken := catalog.claim("me", QueueStage.TRAINING, limit=1, lease_s=600)):
        assert time.monotonic() < end, "the lease never expired"
        time.sleep(0.1)
    assert checkpoint.list_checkpoint_steps(store, job.id) == [2]
    train_jobs(taken, trainer)
    assert catalog.get_consolidation(job.id).state is ConsolidationState.EVALUATING
