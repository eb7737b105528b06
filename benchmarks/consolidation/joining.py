"""Measure how soon a consolidation that joins a busy trainer starts and finishes its first step.

``python -m looper.benchmarks.consolidation.joining N FOLDER MODEL_DIR`` keeps a trainer busy with N - 1 members, adds
more members one after another, and prints for each the seconds from its handover to training until it has joined, and
until the end of its first step.
"""

import json
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

from looper.benchmarks.consolidation.workload import RECIPE, InstanceWorkload, prepare_workloads
from looper.jobs.consolidation.model.device import pick_device, set_thread_count
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.training import trainer
from looper.jobs.consolidation.training.single_process_group import single_process_group
from looper.jobs.consolidation.training.trainer_context import TrainerContext
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.names import InstanceName
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.states import ConsolidationState, QueueStage
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.settings import load_settings
from looper.platform.trajectories.ingest import ingest_paths

JOINING_MEMBERS = 5
"""Number of members that join, one after another."""
BUSY_RECIPE = RECIPE.model_copy(update={"epochs": 1000})
"""Recipe of all members: the first ones are still training when the last one joins."""


class _TimedQueue:
    """The catalog and store of this measurement, in which consolidations are ready for training."""

    def __init__(self, home: Path) -> None:
        self.settings = load_settings(home=home)
        self.catalog, self.store = Catalog.open(self.settings), ObjectStore.open(self.settings)

    def hand_over(self, workload: InstanceWorkload, recipe: Recipe) -> str:
        """Queue a workload as if synthesis were done; return the id of its consolidation."""
        instance = InstanceName.parse(workload.instance)
        if instance.tenant not in self.catalog.list_tenants():
            self.catalog.create_tenant(instance.tenant)
        ingest_paths([workload.folder / "trajectories.jsonl"], instance, catalog=self.catalog, store=self.store)
        job = self.catalog.submit(instance, base=self.settings.base, recipe=recipe)
        for part in ("train.windows.parquet", "holdout.windows.parquet"):
            self.store.put(keys.examples(job.id, part), (workload.folder / part).read_bytes())
        self.catalog.claim("synthesis", QueueStage.SYNTHESIS, limit=1, lease_s=60)
        self.catalog.hand_over(job.id, "synthesis", ConsolidationState.TRAINING)
        return job.id

    def claim(self, limit: int) -> list[Consolidation]:
        return self.catalog.claim("trainer", QueueStage.TRAINING, limit=limit, lease_s=600)

    def wait_for_steps(self, id: str, steps: int) -> float:
        """Wait until a member has done so many steps (0: until it has joined); return the monotonic time."""
        while (progress := self.catalog.get_consolidation(id).progress) is None or progress.step < steps:
            time.sleep(0.02)
        return time.monotonic()


class Join(NamedTuple):
    """Times of one member that joined."""

    starts_s: float
    """Seconds from the handover until the member has joined."""
    stepped_s: float
    """Seconds from the handover until the end of the member's first step."""


def measure_joins(workloads: list[InstanceWorkload], home: Path, model_dir: Path) -> list[Join]:
    """Run a trainer with most of the workloads, and let the last ``JOINING_MEMBERS`` join.

    Args:
        workloads: The workloads of all members.
        home: Folder for the catalog and the object store.
        model_dir: Folder of the base model.

    Returns:
        The times of each member that joined, in order.
    """
    queue, all_joined = _TimedQueue(home), threading.Event()
    set_thread_count(1)
    context = TrainerContext(SharedBase(model_dir, pick_device()), queue.catalog, queue.store, "trainer", max_rank=16)
    busy_ids = [queue.hand_over(workload, BUSY_RECIPE) for workload in workloads[:-JOINING_MEMBERS]]
    joins: list[Join] = []

    def add_members() -> None:
        for id in busy_ids:
            queue.wait_for_steps(id, steps=1)
        for workload in workloads[-JOINING_MEMBERS:]:
            id = queue.hand_over(workload, BUSY_RECIPE)
            started = time.monotonic()
            joins.append(Join(queue.wait_for_steps(id, steps=0) - started, queue.wait_for_steps(id, steps=1) - started))
        all_joined.set()

    adder = threading.Thread(target=add_members)
    adder.start()
    with single_process_group():
        trainer.run_trainer(
            context,
            queue.claim,
            should_stop=all_joined.is_set,
            max_members=len(workloads),
            checkpoint_interval_s=600,
            lease_s=600,
            idle_timeout_s=600,
        )
    adder.join()
    return joins


def main() -> None:
    """Measure the joins and print them as JSON."""
    n, folder, model_dir = sys.argv[1:]
    workloads = prepare_workloads(int(n) - 1 + JOINING_MEMBERS, Path(folder), Path(model_dir))
    print(json.dumps([join._asdict() for join in measure_joins(workloads, Path(folder) / "home", Path(model_dir))]))


if __name__ == "__main__":
    main()
