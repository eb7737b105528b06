"""An instance's first training begins from the recipe's start: real steps, catalog and store, in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from looper.jobs.consolidation.adapters.adapter_file import read_adapter_files, serialize_weights
from looper.jobs.consolidation.adapters.lora import Factors, Lora, truncate_rank
from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.training import checkpoint
from looper.jobs.consolidation.training.checkpoint_writer import CheckpointWriter
from looper.jobs.consolidation.training.session_setup import start_session
from looper.jobs.consolidation.training.trainer_context import TrainerContext
from looper.platform.adapters.starts import remove_start
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.states import ConsolidationState, QueueStage
from looper.platform.objectstore import ObjectStore, keys
from tests.jobs.consolidation.training.test_trainer import (
    BASE,
    Killed,
    claim,
    max_relative_difference,
    publish,
    raise_killed,
    reset_to_training,
    submit_job,
    ticking_clock,
    train_jobs,
    weights,
)
from tests.jobs.starts import make_start, put_start
from tests.tiny import FLOAT32

pytestmark = pytest.mark.usefixtures("one_process")

STILL = 1e-25
"""A learning rate whose steps are lost in the rounding of float32."""


@pytest.fixture(scope="module")
def base(base_dir: Path, one_process: None) -> SharedBase:
    return SharedBase(base_dir, FLOAT32)


@pytest.fixture
def trainer(base: SharedBase, catalog: Catalog, store: ObjectStore) -> TrainerContext:
    return TrainerContext(base, catalog, store, owner="me", max_rank=16)


def train_one(trainer: TrainerContext, name: str = "red", **recipe: float) -> Consolidation:
    submit_job(trainer, name, start="tool-use", **recipe)  # type: ignore[arg-type]
    (job,) = claim(trainer)
    train_jobs([job], trainer)
    return trainer.catalog.get_consolidation(job.id)


def is_same(a: Lora, b: Lora) -> bool:
    assert a.keys() == b.keys()
    return all(torch.allclose(a[layer].update(), b[layer].update(), rtol=1e-3, atol=1e-5) for layer in a)


def test_training_begins_exactly_from_the_start(trainer: TrainerContext) -> None:
    start = make_start(trainer.base)
    added = put_start(trainer.store, trainer.base, start)
    job = train_one(trainer, learning_rate=STILL)
    candidate = checkpoint.load_candidate(trainer.store, job.id)
    found, expected = load(candidate.weights), load(serialize_weights(start))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert checkpoint.find_kept_start(trainer.store, job.id) == added.digest
    assert candidate.scores.current.loss != candidate.scores.candidate.loss, "the gate compares with the base model"


@pytest.mark.parametrize("rank", [2, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_start_of_another_rank_is_padded_or_truncated(trainer: TrainerContext, rank: int, dtype: torch.dtype) -> None:
    rounded = {
        layer: Factors(factors.a.to(dtype), factors.b.to(dtype), factors.scale)
        for layer, factors in make_start(trainer.base, rank, scale=3.0).items()
    }
    put_start(trainer.store, trainer.base, rounded)
    job = train_one(trainer, learning_rate=STILL, rank=4)
    candidate = checkpoint.load_candidate(trainer.store, job.id)
    begun = read_adapter_files(candidate.weights, candidate.config)
    start = {layer: factors.float() for layer, factors in rounded.items()}
    assert is_same(begun, truncate_rank(start, 4)[0] if rank > 4 else start)


@pytest.mark.parametrize(
    ("method", "strategy"),
    [
        *((method, "replay") for method in ("lora", "rslora", "lora+", "dora", "adalora", "qlora")),
        *(("lora", strategy) for strategy in ("progressive", "am-lora", "online-lora(energy=1)", "i-lora", "merge")),
        *(("lora", strategy) for strategy in ("ella", "slao", "online-ewc", "o-lora", "distill")),
    ],
)
def test_it_goes_with_every_method_and_strategy(base: SharedBase, method: str, strategy: str) -> None:
    beginning = make_start(base)
    recipe = Recipe.model_validate({"method": method, "strategy": strategy, "rank": 4, "alpha": 8})
    window = Window.of((1, 5, 9), (0.0, 1.0, 1.0))
    session = start_session(base, recipe, [window] * 8, None, {}, beginning=beginning)
    exported, _ = session.export_adapter(16)
    session.close()
    assert is_same(exported, beginning)


@pytest.mark.parametrize("checkpoints_lost", [False, True])
def test_a_resumed_training_keeps_the_start_that_it_began_from(
    trainer: TrainerContext, monkeypatch: pytest.MonkeyPatch, checkpoints_lost: bool
) -> None:
    # The steps here are so short that the thread which writes checkpoints could fall behind the whole training.
    monkeypatch.setattr(CheckpointWriter, "has_ended", lambda writer: writer.wait() is None)
    first = put_start(trainer.store, trainer.base, make_start(trainer.base))
    job = train_one(trainer)
    expected = weights(trainer, job)
    (job,) = reset_to_training(trainer, [job])
    with pytest.raises(Killed):
        train_jobs([job], trainer, checkpoint_interval_s=0, clock=ticking_clock(10, raise_killed))
    steps = checkpoint.list_checkpoint_steps(trainer.store, job.id)
    assert steps
    for step in steps if checkpoints_lost else []:
        checkpoint.delete_checkpoint(trainer.store, job.id, step)
    assert checkpoint.find_kept_start(trainer.store, job.id) == first.digest

    put_start(trainer.store, trainer.base, make_start(trainer.base, seed=8))
    train_jobs(trainer.catalog.claim("me", QueueStage.TRAINING, limit=8, lease_s=600), trainer)
    assert max_relative_difference(weights(trainer, job), expected) < 1e-5
    assert checkpoint.find_kept_start(trainer.store, job.id) == first.digest

    other = train_one(trainer, "blue")
    assert checkpoint.find_kept_start(trainer.store, other.id) != first.digest


def test_a_later_session_ignores_it(trainer: TrainerContext) -> None:
    put_start(trainer.store, trainer.base, make_start(trainer.base))
    first = train_one(trainer)
    published = weights(trainer, first)
    publish(trainer, trainer.base.revision)
    digest = trainer.catalog.get_channel(first.instance, "prod")
    remove_start(trainer.store, "tool-use", BASE)
    second = train_one(trainer, learning_rate=STILL)
    assert (second.state, second.parent) == (ConsolidationState.EVALUATING, digest)
    assert max_relative_difference(weights(trainer, second), published) < 1e-5
    assert checkpoint.find_kept_start(trainer.store, second.id) is None


def corrupt(trainer: TrainerContext) -> None:
    start = put_start(trainer.store, trainer.base, make_start(trainer.base))
    key = keys.start_file(start.base_revision, start.name, start.digest, "adapter_model.safetensors")
    content = trainer.store.get(key)
    trainer.store.delete(key)
    trainer.store.put(key, content[:-4] + b"\0\0\0\0")


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda trainer: None, "base model tiny has no start 'tool-use'"),
        (
            lambda trainer: put_start(trainer.store, trainer.base, make_start(trainer.base), revision="r0"),
            "was made for revision r0",
        ),
        (corrupt, "start 'tool-use' is corrupt in the object store"),
    ],
    ids=["missing", "another revision", "corrupt"],
)
def test_a_start_that_cannot_be_used_fails_the_consolidation(
    trainer: TrainerContext, prepare: Callable[[TrainerContext], object], reason: str
) -> None:
    prepare(trainer)
    failed = train_one(trainer)
    assert failed.state is ConsolidationState.FAILED
    assert reason in str(failed.reason)
    assert "looper starts" in str(failed.reason)
