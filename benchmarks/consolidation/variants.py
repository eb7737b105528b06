"""The variants of the consolidation benchmark: several ways to run the same consolidations.

``bench`` runs each variant in its own process, so that its memory can be measured.
``python -m looper.benchmarks.consolidation.variants NAME N TASKS FOLDER MODEL_DIR`` prints a measurement as JSON. Work
that all variants share is not measured: preparing the workload, starting Ray, preparing the base model.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from looper.basemodel.node_copies import BaseModelSource
from looper.benchmarks.consolidation.workload import RECIPE, InstanceWorkload, prepare_workloads

MIN_FREE_BYTES = 2 << 30
"""Memory of the machine that is left to all other processes."""


@dataclass(frozen=True)
class ConsolidationMeasurement:
    """Measurement of one variant."""

    makespan_s: float | None
    """Seconds from the first submission to the last adapter; None if the variant did not fit into memory."""
    done_s: tuple[float, ...]
    """Seconds from the first submission until each adapter was ready, in ascending order."""
    published: int | None = None
    """How many candidates the gate published; None for a variant without a gate."""


def run_one_torch_trainer_each(workloads: Sequence[InstanceWorkload], model_dir: Path) -> ConsolidationMeasurement:
    """Variant (a): run one ``TorchTrainer`` per instance, one after another, on a Ray that is already running.

    Args:
        workloads: The workloads.
        model_dir: Folder of the base model.

    Returns:
        The measurement.
    """
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from looper.cluster.local_ray import local_ray

    def train_loop(config: dict[str, object]) -> None:
        _train_sequentially([config["workload"]], config["model_dir"])  # type: ignore[list-item, arg-type]

    with local_ray():
        clock = _Clock()
        for workload in workloads:
            TorchTrainer(
                train_loop,
                train_loop_config={"workload": workload, "model_dir": model_dir},
                scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 2}),
                run_config=RunConfig(storage_path=str(workload.folder / "ray")),
            ).fit()
            clock.mark_done()
        return clock.to_measurement()


def run_sequentially(workloads: Sequence[InstanceWorkload], model_dir: Path) -> ConsolidationMeasurement:
    """Variant (b): run all consolidations one after another in one process, with plain PEFT.

    Args:
        workloads: The workloads.
        model_dir: Folder of the base model.

    Returns:
        The measurement.
    """
    clock = _Clock()
    _train_sequentially(workloads, model_dir, clock.mark_done)
    return clock.to_measurement()


def run_in_parallel(workloads: Sequence[InstanceWorkload], model_dir: Path) -> ConsolidationMeasurement:
    """Variant (c): run one process per instance, all at the same time, each with its share of the cores.

    All processes are ended when less than ``MIN_FREE_BYTES`` of the machine's memory is free, because the machine would
    hang otherwise.

    Args:
        workloads: The workloads.
        model_dir: Folder of the base model.

    Returns:
        The measurement, without times if the processes did not fit into memory.
    """
    clock = _Clock()
    program = "import sys; from looper.benchmarks.consolidation.variants import train_one; train_one(*sys.argv[1:])"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, workload.instance, workload.folder, model_dir], env=environment
        )
        for workload in workloads
    ]
    while processes:
        if psutil.virtual_memory().available < MIN_FREE_BYTES:
            for process in processes:
                process.kill()
            for process in processes:
                process.wait()
            return ConsolidationMeasurement(None, ())
        for process in [process for process in processes if process.poll() is not None]:
            if process.returncode != 0:
                raise RuntimeError(f"a training process exited with code {process.returncode}: its output says why")
            processes.remove(process)
            clock.mark_done()
        time.sleep(0.1)
    return clock.to_measurement()


def train_one(instance: str, folder: str, model_dir: str) -> None:
    """Train one instance, as one process of ``run_in_parallel``.

    The micro-batches are small, because N processes with larger ones would not fit into memory.

    Args:
        instance: Name of the instance.
        folder: Folder of its workload.
        model_dir: Folder of the base model.
    """
    _train_sequentially([InstanceWorkload(instance, Path(folder))], Path(model_dir), micro_batch_size=2)


def run_looper(workloads: Sequence[InstanceWorkload], model_dir: Path) -> ConsolidationMeasurement:
    """Variant (d): run Looper, from the queue through synthesis, trainers and the gate to published versions.

    With so little training the gate does not publish every candidate. A rejected candidate counts as done.

    Args:
        workloads: The workloads.
        model_dir: Folder of the base model.

    Returns:
        The measurement.
    """
    return _run_looper(workloads, model_dir, warm_up=[])


def run_looper_with_warm_trainer(workloads: Sequence[InstanceWorkload], model_dir: Path) -> ConsolidationMeasurement:
    """Variant (d) with one trainer that is already running, as in a cluster that is in use.

    Other trainers, if any, start with the measured work.

    Args:
        workloads: The workloads.
        model_dir: Folder of the base model.

    Returns:
        The measurement.
    """
    (first,) = prepare_workloads(1, workloads[0].folder.parent / "first", model_dir)
    return _run_looper(workloads, model_dir, warm_up=[InstanceWorkload("first/first", first.folder)])


def _run_looper(
    workloads: Sequence[InstanceWorkload], model_dir: Path, warm_up: Sequence[InstanceWorkload]
) -> ConsolidationMeasurement:
    """Run Looper. ``warm_up`` is consolidated first and not measured; its trainer keeps running."""
    from looper.cluster.local_ray import local_ray
    from looper.jobs.queue import worker as queue_worker
    from looper.platform.catalog import Catalog
    from looper.platform.domain.consolidation import Consolidation
    from looper.platform.domain.names import InstanceName
    from looper.platform.domain.states import ConsolidationState
    from looper.platform.objectstore import ObjectStore
    from looper.platform.settings import load_settings
    from looper.platform.trajectories.ingest import ingest_paths

    trainers = trainer_count(len(workloads))
    limits = {"max_trainers": trainers, "cohort_size": -(-len(workloads) // trainers)}
    settings = load_settings(home=workloads[0].folder.parent / "home", consolidation=limits)
    catalog, store = Catalog.open(settings), ObjectStore.open(settings)
    for workload in [*warm_up, *workloads]:
        instance = InstanceName.parse(workload.instance)
        if instance.tenant not in catalog.list_tenants():
            catalog.create_tenant(instance.tenant)
        ingest_paths([workload.folder / "trajectories.jsonl"], instance, catalog=catalog, store=store)

    def consolidate(group: Sequence[InstanceWorkload]) -> list[Consolidation]:
        names = [InstanceName.parse(workload.instance) for workload in group]
        ids = [catalog.submit(name, base=settings.base, recipe=RECIPE).id for name in names]
        while not all(job.state.is_final for job in catalog.get_consolidations(ids)):
            time.sleep(0.2)
        return catalog.get_consolidations(ids)

    jobs: list[Consolidation] = []

    def submit() -> None:
        consolidate(warm_up)
        jobs.extend(consolidate(workloads))

    with local_ray():
        submitter = threading.Thread(target=submit)
        submitter.start()
        queue_worker.work_queue(
            catalog, store, settings, {settings.base: BaseModelSource(model_dir)}, lambda: not submitter.is_alive()
        )
    assert all(job.verdict is not None for job in jobs), [job.reason for job in jobs]
    started = min(job.created_at for job in jobs)
    done = sorted((job.ended_at - started).total_seconds() for job in jobs if job.ended_at is not None)
    published = sum(job.state is ConsolidationState.PUBLISHED for job in jobs)
    return ConsolidationMeasurement(done[-1], tuple(done), published)


def trainer_count(n: int) -> int:
    """Return the number of trainers: one per GPU, or at most two on a CPU.

    Each trainer has a base model in memory.

    Args:
        n: Number of instances.

    Returns:
        Number of trainers, at most ``n``.
    """
    import torch

    return min(n, torch.cuda.device_count() or min(2, len(os.sched_getaffinity(0))))


def _train_sequentially(
    workloads: Sequence[InstanceWorkload],
    model_dir: Path,
    on_done: Callable[[], None] = lambda: None,
    micro_batch_size: int = RECIPE.batch_size,
) -> None:
    import torch

    from looper.benchmarks.consolidation import plain_peft

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0)))))
    model = plain_peft.load_model(model_dir)
    for workload in workloads:
        model = plain_peft.consolidate(model, model_dir, workload, micro_batch_size)
        on_done()


class _Clock:
    def __init__(self) -> None:
        self._began = time.monotonic()
        self._done: list[float] = []

    def mark_done(self) -> None:
        self._done.append(time.monotonic() - self._began)

    def to_measurement(self) -> ConsolidationMeasurement:
        return ConsolidationMeasurement(self._done[-1], tuple(self._done))


VARIANTS = {
    "one TorchTrainer each": run_one_torch_trainer_each,
    "in turn, plain PEFT": run_sequentially,
    "side by side": run_in_parallel,
    "looper": run_looper,
    "looper, trainer at work": run_looper_with_warm_trainer,
}
"""All variants, by their name in reports."""


def main() -> None:
    """Run one variant and print its measurement as JSON."""
    name, n, tasks, folder, model_dir = sys.argv[1:]
    workloads = prepare_workloads(int(n), Path(folder), Path(model_dir), int(tasks))
    print(json.dumps(asdict(VARIANTS[name](workloads, Path(model_dir)))))


if __name__ == "__main__":
    main()
