"""How soon a tenant that is added to a trainer at work starts stepping, and has taken its first step.

``python -m looper.benchmarks.consolidation.joining N FOLDER MODEL_DIR`` keeps a trainer busy with N - 1 tenants, adds
one after another, and prints the seconds from each being handed over to training to its first pass, and to its first
step done.
"""

import json
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

from looper.benchmarks.consolidation.workload import RECIPE, InstanceWorkload, prepare_work
from looper.jobs.consolidation.model.device import pick_device, use_cores
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.training import trainer
from looper.jobs.consolidation.training.single_process_group import single_process_group
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation, ConsolidationState, QueueStage, Recipe
from looper.platform.domain.names import InstanceName
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.settings import load_settings
from looper.platform.trajectories.ingest import ingest

JOINS = 5
BUSY = RECIPE.model_copy(update={"epochs": 1000})
"""Of the tenants that are there already: they have not ended when the last one joins."""


class _TimedQueue:
    """The catalog and store of this measurement, in which work comes ready to be trained."""

    def __init__(self, home: Path) -> None:
        self.settings = load_settings(home=home)
        self.catalog, self.store = Catalog.open(self.settings), ObjectStore.open(self.settings)

    def hand_over(self, work: InstanceWorkload, recipe: Recipe) -> str:
        """Queue ``work`` as synthesis would; return its consolidation's id."""
        instance = InstanceName.parse(work.instance)
        if instance.tenant not in self.catalog.tenants():
            self.catalog.create_tenant(instance.tenant)
        ingest([work.folder / "trajectories.jsonl"], instance, catalog=self.catalog, store=self.store)
        job = self.catalog.submit(instance, base=self.settings.base, recipe=recipe)
        for part in ("train.parquet", "holdout.parquet"):
            self.store.put(keys.examples(job.id, part), (work.folder / part).read_bytes())
        self.catalog.claim("synthesis", QueueStage.SYNTHESIS, limit=1, lease_s=60)
        self.catalog.hand_over(job.id, "synthesis", ConsolidationState.TRAINING)
        return job.id

    def claim(self, limit: int) -> list[Consolidation]:
        return self.catalog.claim("trainer", QueueStage.TRAINING, limit=limit, lease_s=600)

    def wait(self, id: str, steps: int) -> float:
        """Until it has taken so many, none of them as soon as it has joined; return the time."""
        while (progress := self.catalog.consolidation(id).progress) is None or progress.step < steps:
            time.sleep(0.02)
        return time.monotonic()


class Join(NamedTuple):
    """Of one tenant, in seconds."""

    starts_s: float
    stepped_s: float


def joins(works: list[InstanceWorkload], home: Path, model_dir: Path) -> list[Join]:
    """Of each of the last ``JOINS`` of ``works``, beside the others."""
    queue, over = _TimedQueue(home), threading.Event()
    use_cores(1)
    at_work = trainer.Trainer(SharedBase(model_dir, pick_device()), queue.catalog, queue.store, "trainer", max_rank=16)
    there = [queue.hand_over(work, BUSY) for work in works[:-JOINS]]
    took: list[Join] = []

    def add() -> None:
        for id in there:
            queue.wait(id, steps=1)
        for work in works[-JOINS:]:
            id = queue.hand_over(work, BUSY)
            began = time.monotonic()
            took.append(Join(queue.wait(id, steps=0) - began, queue.wait(id, steps=1) - began))
        over.set()

    adding = threading.Thread(target=add)
    adding.start()
    with single_process_group():
        trainer.run(
            at_work,
            queue.claim,
            stopped=over.is_set,
            members_at_most=len(works),
            checkpoint_interval_s=600,
            lease_s=600,
            idle_timeout_s=600,
        )
    adding.join()
    return took


def main() -> None:
    n, folder, model_dir = sys.argv[1:]
    works = prepare_work(int(n) - 1 + JOINS, Path(folder))
    print(json.dumps([join._asdict() for join in joins(works, Path(folder) / "home", Path(model_dir))]))


if __name__ == "__main__":
    main()
