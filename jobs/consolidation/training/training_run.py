"""A trainer as one Ray Train run. Ray starts the workers, restarts them when one dies, and cleans up after them.

The queue worker's ``TrainerPool`` starts training runs. When a worker dies, its members are claimed again, and the
catalog counts these attempts. So a run need not last: after Ray has restarted it often enough, the pool starts another.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer

from looper.basemodel.node_copies import BaseModelSource
from looper.jobs.consolidation.training.suspects import Suspects, choose_suspects
from looper.jobs.queue.gpu_wait import describe_gpu_wait
from looper.jobs.queue.leases import release_after_crash
from looper.jobs.queue.progress import ProgressCounter
from looper.jobs.queue.watchdog import StallWatchdog
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.errors import Conflict, LooperError, StoreUnavailable
from looper.platform.domain.private_files import keep_files_private, make_private_folder
from looper.platform.domain.recipe import TrainerShape
from looper.platform.domain.states import QueueStage
from looper.platform.settings import Settings
from looper.platform.settings.gpu_plan import GpuPlan, count_by_type, plan_for_training
from looper.platform.settings.roles import require_role


@dataclass(frozen=True)
class TrainingRun:
    """What every worker of one training run is given."""

    shape: TrainerShape
    """How the base model is stored. The run claims only consolidations of this shape."""
    owner: str
    """Name under which the run leases consolidations."""
    settings: Settings
    """All settings."""
    base: BaseModelSource
    """The base model."""

    @property
    def folder(self) -> Path:
        """Folder of Ray's own files of this run, on the node of the queue worker."""
        return self.settings.home / "training-runs" / self.owner

    def release_after_death(self, catalog: Catalog) -> None:
        """Release what a dead worker of this run had leased. Only those that it worked on are charged an attempt.

        Args:
            catalog: The catalog.

        Raises:
            StoreUnavailable: If the catalog is down.
        """
        if leased := catalog.list_leased(self.owner):
            suspects = choose_suspects(catalog.get_suspects(self.owner), leased)
            release_after_crash(catalog, self.owner, leased, suspects)

    def remove_folder(self) -> None:
        """Delete Ray's own files of this run; Looper's are in store and catalog."""
        shutil.rmtree(self.folder, ignore_errors=True)


_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Environment of a worker. By default OpenMP threads spin, which makes steps 20 times slower on cores that a server
shares."""

_CPUS_PER_WORKER = 0.1
"""CPUs that Ray reserves for a worker. Workers live long: a whole CPU each would leave none for short tasks such as
those of synthesis."""


class CannotStart(Exception):
    """No worker of a training run got ready to claim anything, so no consolidation is to blame."""


def run_training(run: TrainingRun, is_ready: Callable[[], bool]) -> None:
    """Run a trainer on the current Ray cluster until it is stopped or has been idle for ``idle_timeout_s``.

    The caller removes the folder of the run afterwards. Must not run in the main thread, because there Ray Train would
    take over Ctrl-C permanently.

    Args:
        run: The run.
        is_ready: Whether a worker of the run has become ready.

    Raises:
        CannotStart: If every worker ended before it was ready.
        StoreUnavailable: If the object store or the catalog is down.
        Exception: Any other error of Ray. Then the members of the run can be claimed again.
    """
    make_private_folder(run.folder)
    try:
        _fit(run)
    except WorkerGroupError as error:
        cause = _find_cause(error)
        if isinstance(cause, StoreUnavailable):
            raise cause from error
        if is_ready():
            raise
        raise CannotStart(f"no trainer could start: {_describe(cause)}") from error


def _find_cause(error: WorkerGroupError) -> BaseException:
    """Return the error of the first worker that failed. Ray wraps what the training function raised."""
    failure = next(iter(error.worker_failures.values()), error)
    return getattr(failure, "_base_exc", failure)


def _describe(cause: BaseException) -> str:
    if isinstance(cause, LooperError):
        return cause.detail
    return f"{type(cause).__name__}: {cause}".splitlines()[0]


def _fit(run: TrainingRun) -> None:
    settings = run.settings.consolidation
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    plan = plan_for_training(count_by_type(nodes), run.settings)
    on_node = count_workers_on_node(run.settings, nodes)
    trainer = TorchTrainer(
        _run_worker,
        train_loop_config={"run": run, "workers_on_node": on_node},
        torch_config=TorchConfig(backend="nccl" if plan.trainer else "gloo"),
        scaling_config=scale(run.settings, plan),
        run_config=RunConfig(  # type: ignore[call-arg]  # type checkers see the RunConfig of Ray Train V1
            name="train",
            storage_path=str(run.folder),
            failure_config=FailureConfig(max_failures=settings.max_attempts - 1),
            worker_runtime_env={"env_vars": _ENVIRONMENT},
        ),
    )
    trainer.fit()


def scale(settings: Settings, plan: GpuPlan) -> ScalingConfig:
    """Return what a trainer asks Ray for.

    Args:
        settings: Give the number of workers, the type of their GPUs, and the nodes of trainers.
        plan: What trainers have of the cluster's GPUs.

    Returns:
        Number, resources and type of GPUs of the workers. Those without GPUs are spread over the nodes, whose cores
        they share; those with GPUs are near each other, because they exchange gradients. With ``min_workers``, Ray
        Train starts with as many as there is room for, and starts the group again when a node has come or gone.
    """
    training = settings.consolidation
    least, most = training.min_workers or training.num_workers, training.num_workers
    gpu = {"GPU": plan.trainer} if plan.trainer else {}
    return ScalingConfig(
        # Type checkers see the ScalingConfig of Ray Train V1.
        num_workers=most if least == most else (least, most),  # type: ignore[arg-type]
        use_gpu=bool(gpu),
        resources_per_worker={"CPU": _CPUS_PER_WORKER, **gpu, **require_role(settings.roles.trainers)},
        accelerator_type=training.accelerator_type,
        placement_strategy="PACK" if gpu else "SPREAD",
    )


def count_workers_on_node(settings: Settings, nodes: Iterable[Mapping[str, Any]]) -> int:
    """Return how many workers of trainers a node carries at most, if they are spread evenly.

    Args:
        settings: Give the number of trainers and of their workers, and the nodes of trainers.
        nodes: The nodes, as ``ray.nodes()`` returns them.
    """
    role = settings.roles.trainers
    suitable: int = sum(bool(node["Alive"]) and (role is None or role in node["Resources"]) for node in nodes)
    trainings = [settings.for_base(name).consolidation for name in settings.base_names]
    workers = sum(training.max_trainers * training.num_workers for training in trainings)
    return -(-workers // max(1, suitable))


def describe_training_wait(settings: Settings) -> str | None:
    """Say what a trainer waits for that Ray has not placed.

    Args:
        settings: Settings of the trainer.

    Returns:
        Which GPUs it needs and who has them, or None if Ray has placed all trainers.

    Raises:
        InvalidInput: The cluster has too few GPUs for it.
    """
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    scaling = scale(settings, plan_for_training(count_by_type(nodes), settings))
    return describe_gpu_wait(scaling, ray.util.placement_group_table().values(), nodes)


def claim_for_training(run: TrainingRun, catalog: Catalog, limit: int) -> list[Consolidation]:
    """Lease waiting consolidations for a training run. Fail those whose trainers have died too often.

    Args:
        run: The run.
        catalog: The catalog.
        limit: Maximum number of consolidations.

    Returns:
        The leased consolidations.
    """
    settings = run.settings.consolidation
    claimed = catalog.claim(
        run.owner,
        QueueStage.TRAINING,
        base=run.settings.base,
        shape=run.shape,
        limit=limit,
        lease_s=settings.lease_s,
        tenant_limit=settings.max_concurrent_per_tenant,
        max_attempts=settings.max_attempts,
    )
    for job in claimed:
        if job.attempts > settings.max_attempts:
            with suppress(Conflict):
                catalog.fail(job.id, run.owner, f"its trainer died {settings.max_attempts} times while training it")
    return [job for job in claimed if job.attempts <= settings.max_attempts]


def choose_to_pause(run: TrainingRun, catalog: Catalog, held_s: Mapping[str, float]) -> str | None:
    """Return which member of a full training run gives its place to a consolidation that has waited too long.

    Args:
        run: The run.
        catalog: The catalog.
        held_s: How long each member has had its place, in seconds, by id.

    Returns:
        Its id, or None if no place has to be given.
    """
    settings = run.settings.consolidation
    return catalog.choose_to_pause(
        held_s,
        base=run.settings.base,
        shape=run.shape,
        max_wait_s=settings.max_wait_s,
        tenant_limit=settings.max_concurrent_per_tenant,
    )


def _run_worker(config: dict[str, Any]) -> None:
    """Run in each worker. The heavy imports are inside, so that only workers pay for them."""
    from looper.jobs.consolidation.model import nf4
    from looper.jobs.consolidation.model.device import pick_device, set_thread_count
    from looper.jobs.consolidation.model.shared_base import SharedBase
    from looper.jobs.consolidation.training.job_limits import JobLimits
    from looper.jobs.consolidation.training.pass_size import fit_pass_to_memory
    from looper.jobs.consolidation.training.trainer import run_trainer
    from looper.jobs.consolidation.training.trainer_context import TrainerContext
    from looper.platform.objectstore import ObjectStore

    keep_files_private()
    run: TrainingRun = config["run"]
    settings = run.settings.consolidation
    load = nf4.load_quantized if run.shape is TrainerShape.NF4 else None
    set_thread_count(config["workers_on_node"])
    catalog = Catalog.open(run.settings)
    is_rank0 = ray.train.get_context().get_world_rank() == 0
    progress = ProgressCounter()
    watchdog = StallWatchdog(progress, start_timeout_s=settings.start_timeout_s, timeout_s=settings.progress_timeout_s)

    with closing(catalog), watchdog if is_rank0 else nullcontext():
        if is_rank0:
            run.release_after_death(catalog)  # an earlier worker of this run may have died with leases
        base = SharedBase(run.base.on_this_node(), pick_device(), sharded=settings.sharded, load=load)
        fit_pass_to_memory(base, settings)
        trainer = TrainerContext(
            base=base,
            catalog=catalog,
            store=ObjectStore.open(run.settings),
            owner=run.owner,
            max_rank=run.settings.serve.max_rank,
            limits=JobLimits.of(settings),
            progress=progress,
            suspects=Suspects(partial(catalog.set_suspects, run.owner)) if is_rank0 else Suspects(),
        )
        if is_rank0:
            catalog.report_trainer_ready(run.owner, ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
        run_trainer(
            trainer,
            partial(claim_for_training, run, catalog),
            partial(choose_to_pause, run, catalog),
            should_stop=lambda: not catalog.may_go_on(run.owner),
            max_members=settings.cohort_size,
            checkpoint_interval_s=settings.checkpoint_interval_s,
            lease_s=settings.lease_s,
            progress_timeout_s=settings.progress_timeout_s,
            idle_timeout_s=settings.idle_timeout_s,
        )
