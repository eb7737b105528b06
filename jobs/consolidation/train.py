"""One Ray Train run for a cohort. Ray starts the workers, restarts them when one dies, and cleans up after them."""

import secrets
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer

from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.errors import LooperError
from looper.platform.settings import Settings


@dataclass(frozen=True)
class TrainingRun:
    """What every worker is told."""

    cohort: tuple[Consolidation, ...]
    owner: str
    settings: Settings
    model_dir: Path


_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Of a worker. Spinning OpenMP threads, the default, make steps 20 times slower where a server shares the cores."""


class TrainingBroken(Exception):
    """A training run whose workers died too often. No one member's fault that we know of."""


def train(run: TrainingRun) -> None:
    """Train ``run.cohort`` on the current Ray until each has a candidate in the store, has failed, or is not ours.

    Raises TrainingBroken when the workers died more often than the settings allow, and what they raised if that is a
    LooperError. Interrupted, it leaves the workers behind: they end by themselves once the claims are given back.
    """
    outcome: list[BaseException] = []

    def fit() -> None:
        try:
            _fit(run)
        except BaseException as error:
            outcome.append(error)

    # In the main thread, Ray Train would take over Ctrl-C for good, and exit the process on it.
    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    thread.join()
    if not outcome:
        return
    (error,) = outcome
    if not isinstance(error, TrainingFailedError):
        raise error
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
    folder = run.settings.home / "training-runs" / secrets.token_hex(8)
    trainer = TorchTrainer(
        _work,
        train_loop_config={"run": run},
        torch_config=TorchConfig(backend=_collectives()),
        scaling_config=ScalingConfig(num_workers=settings.workers, use_gpu=_has_gpu()),
        run_config=RunConfig(  # type: ignore[call-arg]  # Ray declares its older one to type checkers
            name="train",
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=settings.restarts),
            worker_runtime_env={"env_vars": _ENVIRONMENT},
        ),
    )
    try:
        trainer.fit()
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # Ray's own notes of the run; ours are in store and catalog


def _work(config: dict[str, Any]) -> None:
    """What each worker does. The heavy imports are in here, so that only workers pay for them."""
    from looper.jobs.consolidation.cohort import Trainer, train_cohort
    from looper.jobs.consolidation.device import pick_device, use_cores
    from looper.jobs.consolidation.shared_base import SharedBase
    from looper.platform.catalog import Catalog
    from looper.platform.objectstore import ObjectStore

    run: TrainingRun = config["run"]
    use_cores(ray.train.get_context().get_local_world_size())
    catalog = Catalog.open(run.settings)
    try:
        trainer = Trainer(SharedBase(run.model_dir, pick_device()), catalog, ObjectStore.open(run.settings), run.owner)
        train_cohort(run.cohort, trainer, run.settings.consolidation.checkpoint_s)
    finally:
        catalog.close()


def _has_gpu() -> bool:
    return bool(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]


def _collectives() -> str:
    return "nccl" if _has_gpu() else "gloo"
