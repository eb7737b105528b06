"""Training with the base model on a GPU: no tensor that is made on the CPU or read from the store is mixed with it.

No GPU is needed: see ``tests.jobs.consolidation.pretended_gpu``.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from looper.jobs.consolidation.model.device import Device
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.training import checkpoint
from looper.jobs.consolidation.training.trainer import run_trainer
from looper.jobs.consolidation.training.trainer_context import TrainerContext
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.states import ConsolidationState, QueueStage
from looper.platform.objectstore import ObjectStore, keys
from tests.jobs.consolidation.pretended_gpu import GPU, pretended_gpu
from tests.jobs.consolidation.strategies.test_every_strategy import ALL, QUICK
from tests.jobs.consolidation.training.test_trainer import claim, publish, raise_killed, ticking_clock, train_jobs
from tests.jobs.episodes import RECIPE, episode, submit

COMBINATIONS = [
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
        return SharedBase(base_dir, Device(GPU, torch.bfloat16, max_tokens_per_pass=1024))


@pytest.fixture
def trainer(base: SharedBase, catalog: Catalog, store: ObjectStore, gpu: None) -> TrainerContext:
    return TrainerContext(base, catalog, store, owner="me", max_rank=16)


def stop_and_resume(trainer: TrainerContext, job: Consolidation) -> None:
    """Train ``job`` for two steps, and resume from the checkpoint."""
    polls, waiting = itertools.count(), [job]
    limits = {"max_members": 1, "checkpoint_interval_s": 600.0, "lease_s": 600, "idle_timeout_s": 0.0}
    run_trainer(
        trainer,
        lambda _: [waiting.pop()] if waiting else [],
        should_stop=lambda: next(polls) == 2,
        clock=ticking_clock(0, raise_killed),
        **limits,  # type: ignore[arg-type]
    )
    now = trainer.catalog.get_consolidation(job.id)
    assert now.state is ConsolidationState.TRAINING, now.reason
    assert checkpoint.list_checkpoint_steps(trainer.store, job.id) == [2]
    train_jobs(trainer.catalog.claim("me", QueueStage.TRAINING, limit=1, lease_s=600), trainer)


def queue(trainer: TrainerContext, recipe: dict[str, object], id: str, first: int) -> None:
    """Submit eight successful tasks, and four failures of the same tasks for the preference loss."""
    batch = [episode(task) for task in range(first, first + 8)]
    batch += [episode(task, room="wrong", success=False) for task in range(first, first + 4)]
    full_recipe = RECIPE.model_copy(update={"batch_size": 2, **recipe})
    submit(trainer.catalog, trainer.store, "acme/red", batch, base="tiny", recipe=full_recipe, id=id)


def assert_trained(trainer: TrainerContext, job: Consolidation) -> None:
    now = trainer.catalog.get_consolidation(job.id)
    assert now.state is ConsolidationState.EVALUATING, now.reason


RECIPES: list[dict[str, object]] = [
    *({"strategy": text} for text in ALL + COMBINATIONS),
    *({"strategy": "none", "method": method} for method in ("rslora", "lora+", "adalora", "dora")),
    {"strategy": "none", "preference_weight": 0.5},
]


def name_of(recipe: dict[str, object]) -> str:
    return ", ".join(map(str, recipe.values()))


def train_two_sessions(trainer: TrainerContext, recipe: dict[str, object]) -> None:
    """Train an instance, publish it, and train it again, with an interruption."""
    queue(trainer, recipe, "first", 0)
    (first,) = claim(trainer)
    train_jobs([first], trainer)
    assert_trained(trainer, first)

    strategy_state = checkpoint.load_candidate(trainer.store, first.id).strategy_state
    publish(trainer, trainer.base.revision)
    (version,) = trainer.catalog.list_versions(first.instance)
    trainer.store.put(keys.strategy_state(first.instance, version.digest), strategy_state)
    queue(trainer, recipe, "second", 20)
    (second,) = claim(trainer)
    stop_and_resume(trainer, second)
    assert_trained(trainer, second)


@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
def test_two_sessions_on_a_gpu(
    trainer: TrainerContext, recipe: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    train_two_sessions(trainer, recipe)
    assert "checkpoint" not in caplog.text, "the checkpoint could not be resumed from"
