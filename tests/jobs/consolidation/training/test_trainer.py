"""A trainer in this process: real DeepSpeed steps, catalog and store, without Ray."""

import itertools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load

from looper.jobs.consolidation.model.device import Device
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.training import checkpoint
from looper.jobs.consolidation.training.checkpoint_writer import CheckpointWriter
from looper.jobs.consolidation.training.trainer import run_trainer
from looper.jobs.consolidation.training.trainer_context import TrainerContext
from looper.jobs.gate.judge import judge_candidate
from looper.jobs.synthesis.output.output_files import synthesize_in_memory
from looper.platform import adapters
from looper.platform.adapters import AdapterFiles, Manifest
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.names import InstanceName
from looper.platform.domain.states import ConsolidationState, QueueStage
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.settings import GateSettings, Settings
from looper.platform.trajectories.table import from_parquet
from tests.gate import LENIENT_GATE
from tests.jobs.episodes import RECIPE, episode, submit
from tests.jobs.starts import make_start, put_start
from tests.jobs.windows import put_examples
from tests.tiny import FLOAT32

pytestmark = pytest.mark.usefixtures("one_process")

BASE = "tiny"


@pytest.fixture
def new_trainer(base_dir: Path, device: Device, catalog: Catalog, store: ObjectStore) -> Callable[[], TrainerContext]:
    """Return a function that makes the context of a newly started worker: the model is loaded again."""
    return lambda: TrainerContext(SharedBase(base_dir, device), catalog, store, owner="me", max_rank=16)


@pytest.fixture
def trainer(new_trainer: Callable[[], TrainerContext]) -> TrainerContext:
    return new_trainer()


def submit_job(
    trainer: TrainerContext, name: str, *, words: int = 1, first: int = 0, count: int = 14, **recipe: object
) -> None:
    submitted = len(trainer.catalog.list_consolidations(instance=InstanceName("acme", name)))
    batch = [episode(task, room=name, words=1 + words * (task % 3)) for task in range(first, first + count)]
    submit(
        trainer.catalog,
        trainer.store,
        f"acme/{name}",
        batch,
        base=BASE,
        recipe=RECIPE.model_copy(update=recipe),
        id=f"{name}-{submitted}",
    )


def claim(trainer: TrainerContext) -> list[Consolidation]:
    """Claim what is queued for training, with its examples written as synthesis writes them."""
    cohort = trainer.catalog.claim(trainer.owner, QueueStage.SYNTHESIS, limit=99, lease_s=600)
    for job in cohort:
        trainer.catalog.advance(job.id, trainer.owner, ConsolidationState.TRAINING)
        (batch,) = job.batches
        _, parts = synthesize_in_memory([from_parquet(trainer.store.get(keys.trajectories(job.instance, batch)))], 0.2)
        put_examples(trainer.store, job, parts, trainer.base.folder)
    return cohort


def train_jobs(
    cohort: list[Consolidation],
    trainer: TrainerContext,
    checkpoint_interval_s: float = 600,
    clock: Callable[[], float] = time.monotonic,
    max_members: int = 8,
) -> None:
    """Train the jobs of ``cohort``, which are claimed, and no others."""
    unclaimed = list(cohort)

    def claim(limit: int) -> list[Consolidation]:
        claimed, unclaimed[:] = unclaimed[:limit], unclaimed[limit:]
        return claimed

    limits = {
        "max_members": max_members,
        "checkpoint_interval_s": checkpoint_interval_s,
        "lease_s": 600,
        "idle_timeout_s": 0.0,
    }
    run_trainer(trainer, claim, should_stop=lambda: False, clock=clock, **limits)  # type: ignore[arg-type]


def reset_to_training(trainer: TrainerContext, cohort: list[Consolidation]) -> list[Consolidation]:
    """Undo the training of ``cohort``: delete the candidates and return to the state ``training``."""
    for job in trainer.catalog.claim(trainer.owner, QueueStage.CONCLUSION, limit=8, lease_s=600):
        trainer.store.delete(keys.checkpoints(job.id))
        trainer.catalog.advance(job.id, trainer.owner, ConsolidationState.TRAINING)
    return [trainer.catalog.get_consolidation(job.id) for job in cohort]


def weights(trainer: TrainerContext, job: Consolidation) -> dict[str, torch.Tensor]:
    return load(checkpoint.load_candidate(trainer.store, job.id).weights)


def max_relative_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[key] - b[key]).abs().max() / b[key].abs().max()) for key in a)


class Killed(Exception):
    """Simulates the death of a worker."""


def ticking_clock(at: int, action: Callable[[], object]) -> Callable[[], float]:
    """Return a clock that advances one second per reading, and calls ``action`` at reading number ``at``."""
    readings = itertools.count(1)

    def read() -> float:
        reading = next(readings)
        if reading == at:
            action()
        return float(reading)

    return read


def raise_killed() -> None:
    raise Killed


def test_members_train_as_they_would_alone(trainer: TrainerContext, new_trainer: Callable[[], TrainerContext]) -> None:
    submit_job(trainer, "red", seed=1)
    submit_job(trainer, "green", epochs=3, max_grad_norm=0.1, words=3)
    submit_job(trainer, "blue", learning_rate=3e-3, count=9)
    cohort = claim(trainer)
    train_jobs(cohort, trainer)
    together = [weights(trainer, job) for job in cohort]

    for job, in_cohort in zip(reset_to_training(trainer, cohort), together, strict=True):
        train_jobs([job], new_trainer())
        # Matrix products of another shape round differently, more so without AVX-512, and Adam magnifies that.
        assert max_relative_difference(weights(trainer, job), in_cohort) < 1e-4
    assert max_relative_difference(together[0], together[2]) > 0.1


def test_a_candidate_has_the_format_of_peft_and_vllm(trainer: TrainerContext) -> None:
    submit_job(trainer, "red")
    (job,) = claim(trainer)
    train_jobs([job], trainer)
    candidate = checkpoint.load_candidate(trainer.store, job.id)
    config = json.loads(candidate.config)
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (4, 8, BASE)
    assert config["target_modules"] == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    tensors = load(candidate.weights)
    assert tensors["base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"].shape == (128, 4)
    assert len(tensors) == 2 * 7 * 2
    scores = candidate.scores
    assert scores.candidate.actions == scores.current.actions > 0
    assert scores.candidate.loss < scores.current.loss


def test_a_killed_training_resumes_exactly(
    new_trainer: Callable[[], TrainerContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The steps here are so short that the thread which writes checkpoints could fall behind the whole training.
    monkeypatch.setattr(CheckpointWriter, "has_ended", lambda writer: writer.wait() is None)
    trainer = new_trainer()
    submit_job(trainer, "red", seed=3)
    submit_job(trainer, "blue", seed=4)
    cohort = claim(trainer)
    train_jobs(cohort, trainer)
    expected = [weights(trainer, job) for job in cohort]
    with pytest.raises(Killed):
        train_jobs(
            reset_to_training(trainer, cohort),
            new_trainer(),
            checkpoint_interval_s=0,
            clock=ticking_clock(16, raise_killed),
        )
    for job in cohort:
        (step,) = checkpoint.list_checkpoint_steps(trainer.store, job.id)
        assert 0 < step < 6
        assert len(trainer.store.list(keys.checkpoints(job.id))) == 2, "older checkpoints were not deleted"

    train_jobs(trainer.catalog.claim("me", QueueStage.TRAINING, limit=8, lease_s=600), new_trainer())
    for job, uninterrupted in zip(cohort, expected, strict=True):
        # Not to the last bit: the two may resume at different steps, and so share other passes.
        assert max_relative_difference(weights(trainer, job), uninterrupted) < 1e-5


def test_a_nan_loss_fails_only_its_own_job(trainer: TrainerContext, new_trainer: Callable[[], TrainerContext]) -> None:
    submit_job(trainer, "red")
    submit_job(trainer, "bad", weight_decay=1e30)
    submit_job(trainer, "blue")
    cohort = claim(trainer)
    train_jobs(cohort, trainer)
    bad = trainer.catalog.get_consolidation(cohort[1].id)
    assert bad.state is ConsolidationState.FAILED
    assert bad.reason is not None
    assert "the loss is nan at step" in bad.reason
    assert not checkpoint.has_candidate(trainer.store, bad.id)

    red = cohort[0]
    trained_with_bad = weights(trainer, red)
    train_jobs([reset_to_training(trainer, cohort)[0]], new_trainer())
    assert max_relative_difference(weights(trainer, red), trained_with_bad) < 1e-5


def test_an_adapter_that_its_last_step_ruins_fails(trainer: TrainerContext) -> None:
    submit_job(trainer, "bad", weight_decay=1e30, max_steps=1)
    (job,) = claim(trainer)
    train_jobs([job], trainer)
    failed = trainer.catalog.get_consolidation(job.id)
    assert failed.state is ConsolidationState.FAILED
    assert "the held-out loss" in str(failed.reason)


def test_a_cancelled_member_is_dropped_and_the_others_continue(trainer: TrainerContext) -> None:
    submit_job(trainer, "red")
    submit_job(trainer, "blue")
    red, blue = claim(trainer)
    train_jobs([red, blue], trainer, 600, ticking_clock(4, lambda: trainer.catalog.cancel(red.id)))
    assert trainer.catalog.get_consolidation(red.id).state is ConsolidationState.CANCELLED
    assert not checkpoint.has_candidate(trainer.store, red.id)
    assert checkpoint.has_candidate(trainer.store, blue.id)


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_new_member_steps_while_the_step_in_progress_pauses(
    new_trainer: Callable[[], TrainerContext], base_dir: Path, catalog: Catalog, store: ObjectStore, cancelled: bool
) -> None:
    one_window_per_pass = Device(torch.device("cpu"), torch.float32, max_tokens_per_pass=16)
    trainer = TrainerContext(SharedBase(base_dir, one_window_per_pass), catalog, store, owner="me", max_rank=16)
    submit_job(trainer, "red")
    submit_job(trainer, "blue", seed=1)
    red, blue = claim(trainer)
    polls = itertools.count(1)
    steps_at_poll: list[tuple[int, int]] = []

    def step(job: Consolidation) -> int:
        progress = catalog.get_consolidation(job.id).progress
        return progress.step if progress else 0

    def claim_in_turn(_: int) -> list[Consolidation]:
        poll = next(polls)
        steps_at_poll.append((step(red), step(blue)))
        if poll == 4 and cancelled:
            catalog.cancel(red.id)
        return {1: [red], 3: [blue]}.get(poll, [])  # at the third poll, red's first step is in progress

    limits = {"max_members": 8, "checkpoint_interval_s": 0.0, "lease_s": 600, "idle_timeout_s": 0.0}
    run_trainer(trainer, claim_in_turn, should_stop=lambda: False, clock=ticking_clock(0, raise_killed), **limits)  # type: ignore[arg-type]

    assert steps_at_poll[2] == (0, 0)
    assert (0, 1) in steps_at_poll, "blue did not step before red's step ended"
    kept = [blue] if cancelled else [red, blue]
    assert checkpoint.has_candidate(store, red.id) is not cancelled
    with_pause = [weights(trainer, job) for job in kept]
    for job, expected in zip(reset_to_training(trainer, kept), with_pause, strict=True):
        train_jobs([job], new_trainer())
        assert max_relative_difference(weights(trainer, job), expected) < 1e-4


def test_progress_and_the_chosen_rate_are_in_the_catalog(trainer: TrainerContext) -> None:
    submit_job(trainer, "red", learning_rate=None)
    (job,) = claim(trainer)
    reported = []
    train_jobs(
        [job],
        trainer,
        600,
        ticking_clock(16, lambda: reported.append(trainer.catalog.get_consolidation(job.id).progress)),
    )
    assert 0 < reported[0].step < reported[0].steps == 6
    now = trainer.catalog.get_consolidation(job.id)
    assert now.state is ConsolidationState.EVALUATING
    assert now.progress is not None
    assert now.progress.step == 6
    assert (now.recipe.learning_rate, now.trained_recipe.learning_rate) == (None, 2e-3)


def publish(trainer: TrainerContext, revision: str) -> None:
    """Publish the trained candidates as the queue worker does, for the base ``revision``."""
    for job in trainer.catalog.claim(trainer.owner, QueueStage.CONCLUSION, limit=99, lease_s=600):
        candidate = checkpoint.load_candidate(trainer.store, job.id)
        verdict = judge_candidate(candidate.scores, GateSettings(**LENIENT_GATE))
        manifest = Manifest(
            instance=str(job.instance),
            base=job.base,
            base_revision=revision,
            parent=None,
            consolidation=job.id,
            training_data=job.batches,
            recipe=job.recipe,
            verdict=verdict,
            libraries={},
        )
        files = AdapterFiles(candidate.weights, candidate.config, manifest.to_bytes())
        digest = adapters.publish(trainer.store, job.instance.tenant, files)
        trainer.store.put(keys.strategy_state(job.instance, digest), candidate.strategy_state)
        trainer.store.put(keys.high_water_marks(job.instance, digest), candidate.marks or b"")
        trainer.catalog.publish(job.id, trainer.owner, digest=digest, verdict=verdict, base_revision=revision)


def test_training_starts_from_the_current_version(
    trainer: TrainerContext, new_trainer: Callable[[], TrainerContext]
) -> None:
    submit_job(trainer, "red")
    (first,) = claim(trainer)
    train_jobs([first], trainer)
    first_scores = checkpoint.load_candidate(trainer.store, first.id).scores.candidate
    publish(trainer, trainer.base.revision)
    submit_job(trainer, "red", seed=5, rank=8)
    (second,) = claim(trainer)
    train_jobs([second], new_trainer())
    assert checkpoint.load_candidate(trainer.store, second.id).scores.current == first_scores


def test_a_later_session_is_scored_on_tasks_of_earlier_sessions_and_other_instances(trainer: TrainerContext) -> None:
    submit_job(trainer, "red")
    submit_job(trainer, "blue", first=20)
    red, blue = claim(trainer)
    train_jobs([red, blue], trainer)
    alone = checkpoint.load_candidate(trainer.store, red.id).scores
    assert (alone.earlier, alone.control) == (None, None)
    publish(trainer, trainer.base.revision)

    submit_job(trainer, "red", first=40)
    (second,) = claim(trainer)
    train_jobs([second], trainer)
    scores = checkpoint.load_candidate(trainer.store, second.id).scores
    assert scores.earlier is not None
    assert scores.earlier.reference == alone.candidate, "the scores of the previous version on the same tasks"
    assert scores.control is not None
    assert scores.control.candidate.actions > 0
    assert scores.canary is not None
    assert scores.canary > 1e-2
    assert judge_candidate(scores, GateSettings()).candidate == scores.candidate


def test_training_cannot_start_from_a_version_of_another_base_revision(
    trainer: TrainerContext, new_trainer: Callable[[], TrainerContext]
) -> None:
    submit_job(trainer, "red")
    train_jobs(claim(trainer), trainer)
    publish(trainer, "f" * 64)
    submit_job(trainer, "red", seed=5)
    (second,) = claim(trainer)
    train_jobs([second], new_trainer())
    failed = trainer.catalog.get_consolidation(second.id)
    assert failed.state is ConsolidationState.FAILED
    assert failed.reason is not None
    assert "cannot start from its current version" in failed.reason
    assert "looper move acme/red --base tiny" in failed.reason


def test_a_move_starts_from_the_base_model_and_is_compared_with_it(
    trainer: TrainerContext, new_trainer: Callable[[], TrainerContext]
) -> None:
    submit_job(trainer, "red")
    (first,) = claim(trainer)
    train_jobs([first], trainer)
    alone = checkpoint.load_candidate(trainer.store, first.id).scores
    publish(trainer, "f" * 64)
    trainer.catalog.submit_move(first.instance, current="other", base=BASE, recipe=first.recipe)
    (move,) = claim(trainer)
    assert (move.parent is None, move.start) == (False, None)
    train_jobs([move], new_trainer())
    moved = checkpoint.load_candidate(trainer.store, move.id).scores
    assert (moved.current, moved.candidate, moved.earlier) == (alone.current, alone.candidate, None)


@pytest.mark.parametrize("sharded", [False, True], ids=["unsharded", "sharded"])
def test_two_workers_train_the_same_as_one(
    trainer: TrainerContext, settings: Settings, base_dir: Path, tmp_path: Path, sharded: bool
) -> None:
    put_start(trainer.store, trainer.base, make_start(trainer.base))
    submit_job(trainer, "red", count=13)
    submit_job(trainer, "blue", batch_size=1, max_steps=4, start="tool-use")
    cohort = claim(trainer)
    train_jobs(cohort, trainer)
    alone = [weights(trainer, job) for job in cohort]
    cohort = reset_to_training(trainer, cohort)

    arguments = (settings, base_dir, cohort, str(tmp_path / "rendezvous"), sharded)
    torch.multiprocessing.spawn(run_rank, arguments, nprocs=2)
    for job, expected in zip(cohort, alone, strict=True):
        # Half a batch is packed differently from a full one, and AdamW magnifies the rounding of gradients near zero:
        # some entries differ by a thousandth of the largest. Over all entries, the difference is only rounding.
        found = weights(trainer, job)
        assert max(float((found[key] - t).norm() / t.norm()) for key, t in expected.items()) < 1e-3


def run_rank(
    rank: int, settings: Settings, base_dir: Path, cohort: list[Consolidation], rendezvous: str, sharded: bool
) -> None:
    """Run one of two workers in its own process."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    catalog = Catalog.open(settings)
    base = SharedBase(base_dir, FLOAT32, sharded=sharded)
    trainer = TrainerContext(base, catalog, ObjectStore.open(settings), owner="me", max_rank=16)
    train_jobs(cohort, trainer, checkpoint_interval_s=0)
    catalog.close()
    dist.destroy_process_group()
