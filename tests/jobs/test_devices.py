"""Training where the base lies on a GPU: nothing that is made on the CPU, or comes from the store, meets what is there.

No GPU is needed: see ``tests.jobs.pretended_gpu``.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from looper.jobs.consolidation import checkpoint
from looper.jobs.consolidation.device import Device
from looper.jobs.consolidation.shared_base import SharedBase
from looper.jobs.consolidation.trainer import Trainer, run
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation, Stage, State
from looper.platform.objectstore import ObjectStore, keys
from tests.jobs.episodes import RECIPE, episode, submit
from tests.jobs.pretended_gpu import GPU, pretended_gpu
from tests.jobs.strategies.test_every_strategy import ALL, QUICK
from tests.jobs.test_trainer import claim, clock, die, publish, train_cohort

TOGETHER = [
    "replay-loss+online-ewc+merge",
    "progressive+online-ewc-factors",
    "am-lora+online-ewc+distill+i-lora",
    f"{QUICK}+ella",
]


@pytest.fixture
def gpu() -> Iterator[None]:
    with pretended_gpu():
        yield


@pytest.fixture(scope="module")
def base(base_dir: Path, one_process: None) -> SharedBase:
    with pretended_gpu():
        return SharedBase(base_dir, Device(GPU, torch.bfloat16, tokens_at_once=1024))


@pytest.fixture
def trainer(base: SharedBase, catalog: Catalog, store: ObjectStore, gpu: None) -> Trainer:
    return Trainer(base, catalog, store, owner="me", max_rank=16)


def stop_and_resume(trainer: Trainer, job: Consolidation) -> None:
    """Train ``job`` for two steps, and go on from the checkpoint of then."""
    looks, waiting = itertools.count(), [job]
    limits = {"members_at_most": 1, "checkpoint_s": 600.0, "lease_s": 600, "idle_s": 0.0}
    run(
        trainer,
        lambda _: [waiting.pop()] if waiting else [],
        stopped=lambda: next(looks) == 2,
        clock=clock(0, die),
        **limits,  # type: ignore[arg-type]
    )
    now = trainer.catalog.consolidation(job.id)
    assert now.state is State.TRAINING, now.reason
    assert checkpoint.saved_steps(trainer.store, job.id) == [2]
    train_cohort(trainer.catalog.claim("me", Stage.TRAINING, limit=1, lease_s=600), trainer)


def queue(trainer: Trainer, recipe: dict[str, object], id: str, first: int) -> None:
    """Eight tasks done well, and four of them badly, too, for the preference loss."""
    batch = [episode(task) for task in range(first, first + 8)]
    batch += [episode(task, room="wrong", success=False) for task in range(first, first + 4)]
    whole = RECIPE.model_copy(update={"batch_size": 2, **recipe})
    submit(trainer.catalog, trainer.store, "acme/red", batch, base="tiny", recipe=whole, id=id)


def assert_trained(trainer: Trainer, job: Consolidation) -> None:
    now = trainer.catalog.consolidation(job.id)
    assert now.state is State.EVALUATING, now.reason


@pytest.mark.parametrize(
    "recipe",
    [
        *({"strategy": text} for text in ALL + TOGETHER),
        *({"strategy": "none", "method": method} for method in ("rslora", "lora+", "adalora", "dora")),
        {"strategy": "none", "preference": 0.5},
    ],
    ids=lambda recipe: ", ".join(map(str, recipe.values())),
)
def test_two_sessions_on_a_gpu(trainer: Trainer, recipe: dict[str, object], caplog: pytest.LogCaptureFixture) -> None:
    queue(trainer, recipe, "first", 0)
    (first,) = claim(trainer)
    train_cohort([first], trainer)
    assert_trained(trainer, first)

    memory = checkpoint.candidate(trainer.store, first.id).memory
    publish(trainer, trainer.base.revision)
    (version,) = trainer.catalog.versions(first.instance)
    trainer.store.put(keys.memory(first.instance, version.digest), memory)
    queue(trainer, recipe, "second", 20)
    (second,) = claim(trainer)
    stop_and_resume(trainer, second)
    assert_trained(trainer, second)
    assert "checkpoint" not in caplog.text, "what was saved could not be gone on from"
