"""The ways of doing the same consolidations, each run in processes of its own, so that its memory can be told apart.

``python -m looper.benchmarks.consolidation.variants NAME N TASKS FOLDER MODEL_DIR`` prints what it measured as JSON.
What all share is not measured: making the work, starting Ray, preparing the base model.
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

from looper.benchmarks.consolidation.workload import RECIPE, InstanceWorkload, prepare_work

LEAST_FREE = 2 << 30
"""Bytes of the machine's memory that are left to everything else."""


@dataclass(frozen=True)
class ConsolidationMeasurement:
    """Of one variant: from the first submission to the last adapter, and when each was there, in seconds."""

    makespan_s: float | None
    """None: it did not fit into the machine's memory, and was ended."""
    done_s: tuple[float, ...]
    published: int | None = None
    """How many the gate let through; None where there is no gate."""


def one_trainer_each(works: Sequence[InstanceWorkload], model_dir: Path) -> ConsolidationMeasurement:
    """(a) A ``TorchTrainer`` for every instance, one after another, on a Ray that is up."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from looper.cluster.local_ray import local_ray

    def work(config: dict[str, object]) -> None:
        _train_in_turn([config["work"]], config["model_dir"])  # type: ignore[list-item, arg-type]

    with local_ray():
        clock = _Clock()
        for each in works:
            TorchTrainer(
                work,
                train_loop_config={"work": each, "model_dir": model_dir},
                scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 2}),
                run_config=RunConfig(storage_path=str(each.folder / "ray")),
            ).fit()
            clock.done()
        return clock.measured()


def in_turn(works: Sequence[InstanceWorkload], model_dir: Path) -> ConsolidationMeasurement:
    """(b) One process with plain PEFT that takes them one after another."""
    clock = _Clock()
    _train_in_turn(works, model_dir, clock.done)
    return clock.measured()


def side_by_side(works: Sequence[InstanceWorkload], model_dir: Path) -> ConsolidationMeasurement:
    """(c) A process for every instance, all at once, each with its share of the cores.

    They are ended when they leave less than ``LEAST_FREE`` of the machine's memory: it would stand still.
    """
    clock = _Clock()
    one = "import sys, pathlib; from looper.benchmarks.consolidation.variants import alone; alone(*sys.argv[1:])"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([sys.executable, "-c", one, each.instance, each.folder, model_dir], env=environment)
        for each in works
    ]
    while processes:
        if psutil.virtual_memory().available < LEAST_FREE:
            for process in processes:
                process.kill()
            for process in processes:
                process.wait()
            return ConsolidationMeasurement(None, ())
        for process in [process for process in processes if process.poll() is not None]:
            if process.returncode != 0:
                raise RuntimeError(f"a process ended with {process.returncode}")
            processes.remove(process)
            clock.done()
        time.sleep(0.1)
    return clock.measured()


def alone(instance: str, folder: str, model_dir: str) -> None:
    """One of the processes of ``side_by_side``. Its passes are small, or N of them would not fit in memory."""
    _train_in_turn([InstanceWorkload(instance, Path(folder))], Path(model_dir), at_once=2)


def looper(works: Sequence[InstanceWorkload], model_dir: Path) -> ConsolidationMeasurement:
    """(d) Looper: from the queue through synthesis, trainers and the gate to published versions.

    Of so little training, the gate lets not every candidate through: a verdict is an end, too.
    """
    return _looper(works, model_dir, first=[])


def looper_at_work(works: Sequence[InstanceWorkload], model_dir: Path) -> ConsolidationMeasurement:
    """(d) with a trainer that has worked before, as one that lives on has; others, if any, start with the work."""
    (first,) = prepare_work(1, works[0].folder.parent / "first")
    return _looper(works, model_dir, first=[InstanceWorkload("first/first", first.folder)])


def _looper(
    works: Sequence[InstanceWorkload], model_dir: Path, first: Sequence[InstanceWorkload]
) -> ConsolidationMeasurement:
    """``first`` is consolidated before, unmeasured, and the trainer stays."""
    from looper.cluster.local_ray import local_ray
    from looper.jobs.queue import worker as foreman
    from looper.platform.catalog import Catalog
    from looper.platform.domain.consolidation import Consolidation, ConsolidationState
    from looper.platform.domain.names import InstanceName
    from looper.platform.objectstore import ObjectStore
    from looper.platform.settings import load_settings
    from looper.platform.trajectories.ingest import ingest

    trainers = trainers_for(len(works))
    limits = {"max_trainers": trainers, "cohort_size": -(-len(works) // trainers)}
    settings = load_settings(home=works[0].folder.parent / "home", consolidation=limits)
    catalog, store = Catalog.open(settings), ObjectStore.open(settings)
    for each in [*first, *works]:
        instance = InstanceName.parse(each.instance)
        if instance.tenant not in catalog.tenants():
            catalog.create_tenant(instance.tenant)
        ingest([each.folder / "trajectories.jsonl"], instance, catalog=catalog, store=store)

    def consolidate(some: Sequence[InstanceWorkload]) -> list[Consolidation]:
        names = [InstanceName.parse(each.instance) for each in some]
        ids = [catalog.submit(name, base=settings.base, recipe=RECIPE).id for name in names]
        while not all(job.state.final for job in catalog.consolidations_by_id(ids)):
            time.sleep(0.2)
        return catalog.consolidations_by_id(ids)

    jobs: list[Consolidation] = []

    def submit() -> None:
        consolidate(first)
        jobs.extend(consolidate(works))

    with local_ray():
        submitting = threading.Thread(target=submit)
        submitting.start()
        foreman.work_queue(catalog, store, settings, model_dir, lambda: not submitting.is_alive())
    assert all(job.verdict is not None for job in jobs), [job.reason for job in jobs]
    began = min(job.created_at for job in jobs)
    done = sorted((job.ended_at - began).total_seconds() for job in jobs if job.ended_at is not None)
    published = sum(job.state is ConsolidationState.PUBLISHED for job in jobs)
    return ConsolidationMeasurement(done[-1], tuple(done), published)


def trainers_for(n: int) -> int:
    """One for each GPU; without any, for each of two cores: each has a base model in memory."""
    import torch

    return min(n, torch.cuda.device_count() or min(2, len(os.sched_getaffinity(0))))


def _train_in_turn(
    works: Sequence[InstanceWorkload],
    model_dir: Path,
    done: Callable[[], None] = lambda: None,
    at_once: int = RECIPE.batch_size,
) -> None:
    import torch

    from looper.benchmarks.consolidation import plain_peft as plain

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0)))))
    model, tokenizer = plain.load(model_dir)
    for work in works:
        model = plain.consolidate(model, tokenizer, work, at_once)
        done()


class _Clock:
    def __init__(self) -> None:
        self._began = time.monotonic()
        self._done: list[float] = []

    def done(self) -> None:
        self._done.append(time.monotonic() - self._began)

    def measured(self) -> ConsolidationMeasurement:
        return ConsolidationMeasurement(self._done[-1], tuple(self._done))


VARIANTS = {
    "one TorchTrainer each": one_trainer_each,
    "in turn, plain PEFT": in_turn,
    "side by side": side_by_side,
    "looper": looper,
    "looper, trainer at work": looper_at_work,
}


def main() -> None:
    name, n, tasks, folder, model_dir = sys.argv[1:]
    works = prepare_work(int(n), Path(folder), int(tasks))
    print(json.dumps(asdict(VARIANTS[name](works, Path(model_dir)))))


if __name__ == "__main__":
    main()
