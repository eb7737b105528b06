"""Training, in this process: a cohort with real PEFT and DeepSpeed, without Ray around it."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from looper.jobs.consolidation import checkpoint
from looper.jobs.consolidation.cohort import Stage, train_cohort
from looper.jobs.consolidation.device import Device
from looper.jobs.consolidation.shared_base import SharedBase
from looper.jobs.synthesis.run import divide, rows_of
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation, Recipe, State
from looper.platform.objectstore import ObjectStore, keys
from tests.jobs.episodes import RECIPE, episode, submit

pytestmark = pytest.mark.usefixtures("one_process")

BASE = "tiny"


@pytest.fixture
def stage(base_dir: Path, device: Device, catalog: Catalog, store: ObjectStore) -> Stage:
    return Stage(SharedBase(base_dir, device), catalog, store, owner="me")


def fresh(stage: Stage, base_dir: Path, device: Device) -> Stage:
    """The same catalog and store, the model loaded anew: what a restarted worker has."""
    return Stage(SharedBase(base_dir, device), stage.catalog, stage.store, stage.owner)


def queue(stage: Stage, name: str, *, recipe: Recipe = RECIPE, words: int = 1, count: int = 14) -> None:
    batch = [episode(task, room=name, words=1 + words * (task % 3)) for task in range(count)]
    submit(stage.catalog, stage.store, f"acme/{name}", batch, base=BASE, recipe=recipe)


def claim(stage: Stage) -> list[Consolidation]:
    """Claim what is queued, its examples written as synthesis writes them."""
    cohort = stage.catalog.claim(stage.owner, limit=8, lease_s=600)
    for job in cohort:
        from looper.platform.trajectories.table import from_parquet

        batch = from_parquet(stage.store.get(keys.trajectories(job.instance, "b0")))
        _, parts = divide(rows_of(batch), 0.2)
        for part, content in parts.items():
            stage.store.put(keys.examples(job.id, part), content)
    return cohort


def weights(stage: Stage, job: Consolidation) -> dict[str, torch.Tensor]:
    return load(checkpoint.candidate(stage.store, job.id).weights)


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[key] - b[key]).abs().max() / b[key].abs().max()) for key in a)


def test_a_cohort_trains_each_as_if_it_were_alone(stage: Stage, base_dir: Path, device: Device) -> None:
    queue(stage, "red", recipe=RECIPE.model_copy(update={"seed": 1}))
    queue(stage, "green", recipe=RECIPE.model_copy(update={"epochs": 3, "clip": 0.1}), words=3)
    queue(stage, "blue", recipe=RECIPE.model_copy(update={"learning_rate": 3e-3}), count=9)
    cohort = claim(stage)
    train_cohort(cohort, stage, checkpoint_s=600)
    together = [weights(stage, job) for job in cohort]

    for job, in_cohort in zip(cohort, together, strict=True):
        stage.store.delete(keys.checkpoints(job.id))
        train_cohort([job], fresh(stage, base_dir, device), checkpoint_s=600)
        assert largest_difference(weights(stage, job), in_cohort) < 1e-5
    assert largest_difference(together[0], together[2]) > 0.1
