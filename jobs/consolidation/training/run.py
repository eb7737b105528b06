"""A trainer as one Ray Train run. Ray starts the workers, restarts them when one dies, and cleans up after them.

What was in hand when a worker died is claimed again, and the catalog counts these attempts. So the run itself need not
last: when Ray has restarted it often enough, the foreman starts another.
"""

import shutil
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer

from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation, QueueStage, TrainerShape
from looper.platform.domain.errors import Conflict, StoreUnavailable
from looper.platform.settings import Settings


@dataclass(frozen=True)
class TrainingRun:
    """What every worker is told: what to claim, and in whose name, for as long as ``permit`` is there."""

    shape: TrainerShape
    owner: str
    settings: Settings
    model_dir: Path

    @property
    def folder(self) -> Path:
        """Of this run, seen by the foreman and by every worker."""
        return self.settings.home / "training-runs" / self.owner

    @property
    def permit(self) -> Path:
        return self.folder / "permit"

    @property
    def ready(self) -> Path:
        """There once a worker has had base, catalog and store at hand."""
        return self.folder / "ready"

    def stop(self) -> None:
        """Have the trainer save what it is at, give it back, and end."""
        self.permit.unlink(missing_ok=True)


_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Of a worker. Spinning OpenMP threads, the default, make steps 20 times slower where a server shares the cores."""


_CPUS = 0.1
"""Of a worker, in Ray's books. It lives on: a whole CPU each would leave none for the tasks that come and go, synthesis
among them."""


class CannotStart(Exception):
    """No worker of a training run came so far as to claim anything: it is not what it was to train that is wrong."""


def train(run: TrainingRun) -> None:
    """Train what can be claimed on the current Ray, until ``stop`` or nothing has come for as long as the settings say.

    Not for the main thread: there, Ray Train would take over Ctrl-C for good. Raises CannotStart when each worker ended
    before it began, and StoreUnavailable. Whatever else Ray raises, what the run had in hand may be claimed again.
    """
    run.folder.mkdir(parents=True)
    run.permit.touch()
    try:
        _fit(run)
    except WorkerGroupError as error:
        cause = _cause(error)
        if isinstance(cause, StoreUnavailable):
            raise cause from error
        if run.ready.exists():
            raise
        raise CannotStart(f"no trainer could start: {type(cause).__name__}: {cause}".splitlines()[0]) from error
    finally:
        shutil.rmtree(run.folder, ignore_errors=True)  # Ray's own notes of the run; ours are in store and catalog


def _cause(error: WorkerGroupError) -> BaseException:
    """What went wrong in the first worker that failed; Ray wraps what the training function raised."""
    failure = next(iter(error.worker_failures.values()), error)
    return getattr(failure, "_base_exc", failure)


def _fit(run: TrainingRun) -> None:
    settings = run.settings.consolidation
    trainer = TorchTrainer(
        _work,
        train_loop_config={"run": run},
        torch_config=TorchConfig(backend=_collectives()),
        scaling_config=ScalingConfig(
            num_workers=settings.num_workers, use_gpu=_has_gpu(), resources_per_worker={"CPU": _CPUS}
        ),
        run_config=RunConfig(  # type: ignore[call-arg]  # Ray declares its older one to type checkers
            name="train",
            storage_path=str(run.folder),
            failure_config=FailureConfig(max_failures=settings.max_attempts - 1),
            worker_runtime_env={"env_vars": _ENVIRONMENT},
        ),
    )
    trainer.fit()


def claim(run: TrainingRun, catalog: Catalog, limit: int) -> list[Consolidation]:
    """What ``run`` takes in hand next. One that too many trainers died of is failed instead."""
    settings = run.settings.consolidation
    claimed = catalog.claim(
        run.owner,
        QueueStage.TRAINING,
        base=run.settings.base,
        shape=run.shape,
        limit=limit,
        lease_s=settings.lease_s,
        tenant_limit=settings.max_concurrent_per_tenant,
        attempts=settings.max_attempts,
    )
    for job in claimed:
        if job.attempts > settings.max_attempts:
            with suppress(Conflict):
                catalog.fail(job.id, run.owner, f"its trainer died {settings.max_attempts} times while training it")
    return [job for job in claimed if job.attempts <= settings.max_attempts]


def _work(config: dict[str, Any]) -> None:
    """What each worker does. The heavy imports are in here, so that only workers pay for them."""
    from looper.jobs.consolidation.model import nf4
    from looper.jobs.consolidation.model.device import pick_device, use_cores
    from looper.jobs.consolidation.model.shared_base import SharedBase
    from looper.jobs.consolidation.training import trainer
    from looper.platform.objectstore import ObjectStore

    run: TrainingRun = config["run"]
    settings = run.settings.consolidation
    load = nf4.quantised if run.shape is TrainerShape.NF4 else None
    use_cores(settings.max_trainers * ray.train.get_context().get_local_world_size())
    catalog = Catalog.open(run.settings)

    try:
        if ray.train.get_context().get_world_rank() == 0:
            catalog.release(catalog.held_by(run.owner), run.owner, died=True)  # a worker before this one
        ours = trainer.Trainer(
            base=SharedBase(run.model_dir, pick_device(), sharded=settings.sharded, load=load),
            catalog=catalog,
            store=ObjectStore.open(run.settings),
            owner=run.owner,
            max_rank=run.settings.serve.largest_rank,
        )
        run.ready.touch()
        trainer.run(
            ours,
            partial(claim, run, catalog),
            stopped=lambda: not run.permit.exists(),
            members_at_most=settings.cohort_size,
            checkpoint_interval_s=settings.checkpoint_interval_s,
            lease_s=settings.lease_s,
            idle_timeout_s=settings.idle_timeout_s,
        )
    finally:
        catalog.close()


def _has_gpu() -> bool:
    return bool(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]


def _collectives() -> str:
    return "nccl" if _has_gpu() else "gloo"
