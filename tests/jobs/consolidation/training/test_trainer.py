"""A trainer, in this process: real DeepSpeed steps, catalog and store, without Ray around it."""

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
from looper.jobs.consolidation.training.checkpoint import Checkpoint
from looper.jobs.consolidation.training.trainer import Trainer, run
from looper.jobs.gate import judge
from looper.jobs.synthesis.output.output_files import in_memory
from looper.platform import adapters
from looper.platform.adapters import AdapterFiles, Manifest
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation, ConsolidationState, QueueStage
from looper.platform.domain.names import InstanceName
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.settings import GateSettings, Settings
from looper.platform.trajectories.table import from_parquet
from tests.jobs.episodes import RECIPE, episode, submit
from tests.tiny import FLOAT32

pytestmark = pytest.mark.usefixtures("one_process")

BASE = "tiny"


@pytest.fixture
def new_trainer(base_dir: Path, device: Device, catalog: Catalog, store: ObjectStore) -> Callable[[], Trainer]:
    """Makes what a worker that was just started has: one catalog and store, and the model loaded anew."""
    return lambda: Trainer(SharedBase(base_dir, device), catalog, store, owner="me", max_rank=16)


@pytest.fixture
def trainer(new_trainer: Callable[[], Trainer]) -> Trainer:
    return new_trainer()


def queue(trainer: Trainer, name: str, *, words: int = 1, first: int = 0, count: int = 14, **recipe: float) -> None:
    known = len(trainer.catalog.consolidations(instance=InstanceName("acme", name)))
    batch = [episode(task, room=name, words=1 + words * (task % 3)) for task in range(first, first + count)]
    submit(
        trainer.catalog,
        trainer.store,
        f"acme/{name}",
        batch,
        base=BASE,
        recipe=RECIPE.model_copy(update=recipe),
        id=f"{name}-{known}",
    )


def claim(trainer: Trainer) -> list[Consolidation]:
    """Claim what is queued, its examples written as synthesis writes them."""
    cohort = trainer.catalog.claim(trainer.owner, QueueStage.SYNTHESIS, limit=8, lease_s=600)
    for job in cohort:
        trainer.catalog.advance(job.id, trainer.owner, ConsolidationState.TRAINING)
        (batch,) = job.batches
        _, parts = in_memory([from_parquet(trainer.store.get(keys.trajectories(job.instance, batch)))], 0.2)
        for part, content in parts.items():
            trainer.store.put(keys.examples(job.id, part), content)
    return cohort


def train_cohort(
    cohort: list[Consolidation],
    trainer: Trainer,
    checkpoint_interval_s: float = 600,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Train what was claimed, and nothing else."""
    waiting = list(cohort)

    def claim(limit: int) -> list[Consolidation]:
        taken, waiting[:] = waiting[:limit], waiting[limit:]
        return taken

    limits = {
        "members_at_most": 8,
        "checkpoint_interval_s": checkpoint_interval_s,
        "lease_s": 600,
        "idle_timeout_s": 0.0,
    }
    run(trainer, claim, stopped=lambda: False, clock=clock, **limits)  # type: ignore[arg-type]


def again(trainer: Trainer, cohort: list[Consolidation]) -> list[Consolidation]:
    """``cohort``, which has been trained, as if it had not been."""
    for job in trainer.catalog.claim(trainer.owner, QueueStage.CONCLUSION, limit=8, lease_s=600):
        trainer.store.delete(keys.checkpoints(job.id))
        trainer.catalog.advance(job.id, trainer.owner, ConsolidationState.TRAINING)
    return [trainer.catalog.consolidation(job.id) for job in cohort]


def weights(trainer: Trainer, job: Consolidation) -> dict[str, torch.Tensor]:
    return load(checkpoint.candidate(trainer.store, job.id).weights)


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[key] - b[key]).abs().max() / b[key].abs().max()) for key in a)


class Killed(Exception):
    """Stands for a worker's death."""


def clock(at: int, happens: Callable[[], object]) -> Callable[[], float]:
    """A clock that goes a second at each reading, with something that happens at reading ``at``."""
    readings = itertools.count(1)

    def read() -> float:
        reading = next(readings)
        if reading == at:
            happens()
        return float(reading)

    return read


def die() -> None:
    raise Killed


def test_a_cohort_trains_each_as_if_it_were_alone(trainer: Trainer, new_trainer: Callable[[], Trainer]) -> None:
    queue(trainer, "red", seed=1)
    queue(trainer, "green", epochs=3, max_grad_norm=0.1, words=3)
    queue(trainer, "blue", learning_rate=3e-3, count=9)
    cohort = claim(trainer)
    train_cohort(cohort, trainer)
    together = [weights(trainer, job) for job in cohort]

    for job, in_cohort in zip(again(trainer, cohort), together, strict=True):
        train_cohort([job], new_trainer())
        # Products of other shapes round otherwise, on CPUs without AVX-512 more than with it, and Adam magnifies it.
        assert largest_difference(weights(trainer, job), in_cohort) < 1e-4
    assert largest_difference(together[0], together[2]) > 0.1


def test_a_candidate_is_what_peft_and_vllm_read(trainer: Trainer) -> None:
    queue(trainer, "red")
    (job,) = claim(trainer)
    train_cohort([job], trainer)
    candidate = checkpoint.candidate(trainer.store, job.id)
    config = json.loads(candidate.config)
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (4, 8, BASE)
    assert config["target_modules"] == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    tensors = load(candidate.weights)
    assert tensors["base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"].shape == (128, 4)
    assert len(tensors) == 2 * 7 * 2
    scores = candidate.scores
    assert scores.candidate.actions == scores.current.actions > 0
    assert scores.candidate.loss < scores.current.loss


def test_a_killed_training_goes_on_exactly(new_trainer: Callable[[], Trainer]) -> None:
    trainer = new_trainer()
    queue(trainer, "red", seed=3)
    queue(trainer, "blue", seed=4)
    cohort = claim(trainer)
    train_cohort(cohort, trainer)
    expected = [weights(trainer, job) for job in cohort]
    with pytest.raises(Killed):
        train_cohort(again(trainer, cohort), new_trainer(), checkpoint_interval_s=0, clock=clock(16, die))
    for job in cohort:
        (step,) = checkpoint.saved_steps(trainer.store, job.id)
        assert 0 < step < 6
        assert len(trainer.store.list(keys.checkpoints(job.id))) == 2, "older checkpoints are left behind"

    train_cohort(trainer.catalog.claim("me", QueueStage.TRAINING, limit=8, lease_s=600), new_trainer())
    for job, uninterrupted in zip(cohort, expected, strict=True):
        assert largest_difference(weights(trainer, job), uninterrupted) == 0


def test_a_half_written_checkpoint_is_not_there(store: ObjectStore) -> None:
    checkpoint.save_state(store, "c", Checkpoint(step=3, loss=1.5), b"three")
    store.put(f"{keys.checkpoints('c')}/step-00000004/state.safetensors", b"fo")
    assert checkpoint.saved_steps(store, "c") == [3]
    assert checkpoint.state(store, "c", 3) == (Checkpoint(step=3, loss=1.5), b"three")
    assert checkpoint.save_state(store, "c", Checkpoint(step=4, loss=1.0), b"four")
    assert checkpoint.state(store, "c", 4) == (Checkpoint(step=4, loss=1.0), b"four")
    assert not checkpoint.save_state(store, "c", Checkpoint(step=4, loss=1.0), b"four again")


def test_a_loss_that_is_no_number_fails_its_tenant_only(trainer: Trainer, new_trainer: Callable[[], Trainer]) -> None:
    queue(trainer, "red")
    queue(trainer, "bad", weight_decay=1e30)
    queue(trainer, "blue")
    cohort = claim(trainer)
    train_cohort(cohort, trainer)
    bad = trainer.catalog.consolidation(cohort[1].id)
    assert bad.state is ConsolidationState.FAILED
    assert bad.reason is not None
    assert "the loss is nan at step" in bad.reason
    assert not checkpoint.has_candidate(trainer.store, bad.id)

    red = cohort[0]
    beside_bad = weights(trainer, red)
    train_cohort([again(trainer, cohort)[0]], new_trainer())
    assert largest_difference(weights(trainer, red), beside_bad) < 1e-5


def test_an_adapter_trained_to_pieces_by_its_last_step_fails(trainer: Trainer) -> None:
    queue(trainer, "bad", weight_decay=1e30, max_steps=1)
    (job,) = claim(trainer)
    train_cohort([job], trainer)
    failed = trainer.catalog.consolidation(job.id)
    assert failed.state is ConsolidationState.FAILED
    assert "the held-out loss" in str(failed.reason)


def test_a_cancelled_training_is_dropped_and_the_others_go_on(trainer: Trainer) -> None:
    queue(trainer, "red")
    queue(trainer, "blue")
    red, blue = claim(trainer)
    train_cohort([red, blue], trainer, 600, clock(4, lambda: trainer.catalog.cancel(red.id)))
    assert trainer.catalog.consolidation(red.id).state is ConsolidationState.CANCELLED
    assert not checkpoint.has_candidate(trainer.store, red.id)
    assert checkpoint.has_candidate(trainer.store, blue.id)


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_newcomer_steps_while_the_step_under_way_pauses(
    new_trainer: Callable[[], Trainer], base_dir: Path, catalog: Catalog, store: ObjectStore, cancelled: bool
) -> None:
    passes_of_one_window = Device(torch.device("cpu"), torch.float32, tokens_at_once=16)
    trainer = Trainer(SharedBase(base_dir, passes_of_one_window), catalog, store, owner="me", max_rank=16)
    queue(trainer, "red")
    queue(trainer, "blue", seed=1)
    red, blue = claim(trainer)
    looks = itertools.count(1)
    red_when_blue: list[tuple[int, int]] = []

    def step(job: Consolidation) -> int:
        progress = catalog.consolidation(job.id).progress
        return progress.step if progress else 0

    def claim_in_turn(_: int) -> list[Consolidation]:
        look = next(looks)
        red_when_blue.append((step(red), step(blue)))
        if look == 4 and cancelled:
            catalog.cancel(red.id)
        return {1: [red], 3: [blue]}.get(look, [])  # by the third look, red's first step has begun and not ended

    limits = {"members_at_most": 8, "checkpoint_interval_s": 0.0, "lease_s": 600, "idle_timeout_s": 0.0}
    run(trainer, claim_in_turn, stopped=lambda: False, clock=clock(0, die), **limits)  # type: ignore[arg-type]

    assert red_when_blue[2] == (0, 0)
    assert (0, 1) in red_when_blue, "blue had stepped before red's step ended"
    kept = [blue] if cancelled else [red, blue]
    assert checkpoint.has_candidate(store, red.id) is not cancelled
    paused = [weights(trainer, job) for job in kept]
    for job, was in zip(again(trainer, kept), paused, strict=True):
        train_cohort([job], new_trainer())
        assert largest_difference(weights(trainer, job), was) < 1e-4


def test_progress_is_seen_in_the_catalog(trainer: Trainer) -> None:
    queue(trainer, "red")
    (job,) = claim(trainer)
    seen = []
    train_cohort([job], trainer, 600, clock(16, lambda: seen.append(trainer.catalog.consolidation(job.id).progress)))
    assert 0 < seen[0].step < seen[0].steps == 6
    now = trainer.catalog.consolidation(job.id)
    assert now.state is ConsolidationState.EVALUATING
    assert now.progress is not None
    assert now.progress.step == 6


def publish(trainer: Trainer, revision: str) -> None:
    """Publish what has been trained as the foreman does, as of base ``revision``."""
    for job in trainer.catalog.claim(trainer.owner, QueueStage.CONCLUSION, limit=8, lease_s=600):
        candidate = checkpoint.candidate(trainer.store, job.id)
        verdict = judge(candidate.scores, GateSettings(min_gain=0))
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
        trainer.catalog.publish(job.id, trainer.owner, digest=digest, verdict=verdict, base_revision=revision)


def test_training_starts_from_the_current_version(trainer: Trainer, new_trainer: Callable[[], Trainer]) -> None:
    queue(trainer, "red")
    (first,) = claim(trainer)
    train_cohort([first], trainer)
    of_first = checkpoint.candidate(trainer.store, first.id).scores.candidate
    publish(trainer, trainer.base.revision)
    queue(trainer, "red", seed=5, rank=8)
    (second,) = claim(trainer)
    train_cohort([second], new_trainer())
    assert checkpoint.candidate(trainer.store, second.id).scores.current == of_first


def test_a_later_session_is_asked_what_the_earlier_and_other_instances_held_out(trainer: Trainer) -> None:
    queue(trainer, "red")
    queue(trainer, "blue", first=20)
    red, blue = claim(trainer)
    train_cohort([red, blue], trainer)
    alone = checkpoint.candidate(trainer.store, red.id).scores
    assert (alone.earlier, alone.control) == (None, None)
    publish(trainer, trainer.base.revision)

    queue(trainer, "red", first=40)
    (second,) = claim(trainer)
    train_cohort([second], trainer)
    scores = checkpoint.candidate(trainer.store, second.id).scores
    assert scores.earlier is not None
    assert scores.earlier.reference == alone.candidate, "the version before, on what it was asked then"
    assert scores.control is not None
    assert scores.control.candidate.actions > 0
    assert scores.canary is not None
    assert scores.canary > 1e-2
    assert judge(scores, GateSettings()).candidate == scores.candidate


def test_a_version_of_another_base_cannot_be_gone_on_from(trainer: Trainer, new_trainer: Callable[[], Trainer]) -> None:
    queue(trainer, "red")
    train_cohort(claim(trainer), trainer)
    publish(trainer, "f" * 64)
    queue(trainer, "red", seed=5)
    (second,) = claim(trainer)
    train_cohort([second], new_trainer())
    failed = trainer.catalog.consolidation(second.id)
    assert failed.state is ConsolidationState.FAILED
    assert failed.reason is not None
    assert "cannot go on from its current version" in failed.reason


@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
def test_two_workers_come_to_what_one_comes_to(
    trainer: Trainer, settings: Settings, base_dir: Path, tmp_path: Path, sharded: bool
) -> None:
    queue(trainer, "red", count=13)
    queue(trainer, "blue", batch_size=1, max_steps=4)
    cohort = claim(trainer)
    train_cohort(cohort, trainer)
    alone = [weights(trainer, job) for job in cohort]
    cohort = again(trainer, cohort)

    told = (settings, base_dir, cohort, str(tmp_path / "rendezvous"), sharded)
    torch.multiprocessing.spawn(work, told, nprocs=2)
    for job, expected in zip(cohort, alone, strict=True):
        # Half a batch packs otherwise than a whole one, and AdamW makes much of the rounding of gradients near zero:
        # some entries differ by a thousandth of the largest. Over all entries the difference is of rounding's size.
        found = weights(trainer, job)
        assert max(float((found[key] - t).norm() / t.norm()) for key, t in expected.items()) < 1e-3


def work(
    rank: int, settings: Settings, base_dir: Path, cohort: list[Consolidation], rendezvous: str, sharded: bool
) -> None:
    """One of two workers, in a process of its own."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    catalog = Catalog.open(settings)
    base = SharedBase(base_dir, FLOAT32, sharded=sharded)
    trainer = Trainer(base, catalog, ObjectStore.open(settings), owner="me", max_rank=16)
    train_cohort(cohort, trainer, checkpoint_interval_s=0)
    catalog.close()
    dist.destroy_process_group()
