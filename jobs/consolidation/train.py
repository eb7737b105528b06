"""A trainer as one Ray Train run. Ray starts the workers, restarts them when one dies, and cleans up after them."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer

from looper.platform.domain.consolidation import Consolidation, Stage, TrainerShape
from looper.platform.domain.errors import LooperError
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

    def stop(self) -> None:
        """Have the trainer save what it is at, give it back, and end."""
        self.permit.unlink(missing_ok=True)


_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Of a worker. Spinning OpenMP threads, the default, make steps 20 times slower where a server shares the cores."""


class TrainingBroken(Exception):
    """A training run whose workers died too often."""


def train(run: TrainingRun) -> None:
    """Train what can be claimed on the current Ray, until ``stop`` or nothing has come for as long as the settings say.

    Not for the main thread: there, Ray Train would take over Ctrl-C for good. Raises TrainingBroken when the workers
    died more often than the settings allow, and what they raised if that is a LooperError.
    """
    run.folder.mkdir(parents=True)
    run.permit.touch()
    try:
        _fit(run)
    except TrainingFailedError as error:
        cause = _cause(error)
        if isinstance(cause, LooperError):
            raise cause from error
        raise TrainingBroken(f"the training run broke off: {type(cause).__name__}: {cause}".splitlines()[0]) from error


def _cause(error: TrainingFailedError) -> BaseException:
    """What went wrong in the first worker that failed; Ray wraps what the training function raised."""
    failures = error.worker_failures.values() if isinstance(error, WorkerGroupError) else ()
    failure = next(iter(failures), error)
    return getattr(failure, "_base_exc", failure)


def _fit(run: TrainingRun) -> None:
    settings = run.settings.consolidation
    trainer = TorchTrainer(
        _work,
        train_loop_config={"run": run},
        torch_config=TorchConfig(backend=_collectives()),
        scaling_config=ScalingConfig(num_workers=settings.workers, use_gpu=_has_gpu()),
        run_config=RunConfig(  # type: ignore[call-arg]  # Ray declares its older one to type checkers
            name="train",
            storage_path=str(run.folder),
            failure_config=FailureConfig(max_failures=settings.restarts),
            worker_runtime_env={"env_vars": _ENVIRONMENT},
        ),
    )
    try:
        trainer.fit()
    finally:
        shutil.rmtree(run.folder, ignore_errors=True)  # Ray's own notes of the run; ours are in store and catalog


def _work(config: dict[str, Any]) -> None:
    """What each worker does. The heavy imports are in here, so that only workers pay for them."""
    from looper.jobs.consolidation import trainer
    from looper.jobs.consolidation.device import pick_device, use_cores
    from looper.jobs.consolidation.shared_base import SharedBase
    from looper.platform.catalog import Catalog
    from looper.platform.objectstore import ObjectStore

    run: TrainingRun = config["run"]
    settings = run.settings.consolidation
    use_cores(ray.train.get_context().get_local_world_size())
    catalog = Catalog.open(run.settings)

    def claim(limit: int) -> list[Consolidation]:
        return catalog.claim(
            run.owner,
            Stage.TRAINING,
            base=run.settings.base,
            shape=run.shape,
            limit=limit,
            lease_s=settings.lease_s,
            tenant_limit=settings.per_tenant,
        )

    try:
        if ray.train.get_context().get_world_rank() == 0:
            catalog.release(catalog.held_by(run.owner), run.owner)  # by a worker before this one, which died
        trainer.run(
            trainer.Trainer(
                base=SharedBase(run.model_dir, pick_device()),
                catalog=catalog,
                store=ObjectStore.open(run.settings),
                owner=run.owner,
                max_rank=run.settings.serve.max_lora_rank,
            ),
            claim,
            stopped=lambda: not run.permit.exists(),
            members_at_most=settings.cohort,
            checkpoint_s=settings.checkpoint_s,
            lease_s=settings.lease_s,
            idle_s=settings.idle_s,
        )
    finally:
        catalog.close()


def _has_gpu() -> bool:
    return bool(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]


def _collectives() -> str:
    return "nccl" if _has_gpu() else "gloo"
