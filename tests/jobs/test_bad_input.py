"""A problem of one consolidation fails only that one, with a reason; the other one in the trainer is published."""

import errno
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from safetensors.torch import save

from looper.basemodel.node_copies import BaseModelSource
from looper.jobs.consolidation.data.window_table import read_windows, write_windows
from looper.jobs.consolidation.model.device import Device
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.training import checkpoint
from looper.jobs.consolidation.training.trainer import run_trainer
from looper.jobs.consolidation.training.trainer_context import TrainerContext
from looper.jobs.consolidation.training.training_run import TrainingRun, claim_for_training
from looper.jobs.queue.worker import QueueWorker
from looper.jobs.synthesis.output.output_files import synthesize_in_memory
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.errors import StoreUnavailable
from looper.platform.domain.recipe import Recipe, TrainerShape
from looper.platform.domain.states import ConsolidationState, QueueStage
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.settings import Settings
from tests.jobs.episodes import RECIPE, episode, submit
from tests.jobs.windows import put_examples, replace_object

pytestmark = pytest.mark.usefixtures("one_process")

BASE = "tiny"
LIMITS = {"max_members": 16, "checkpoint_interval_s": 0.0, "lease_s": 600.0, "idle_timeout_s": 0.0}


class FaultyFileSystem(MemoryFileSystem):
    """A store in memory that raises an OSError with ``number`` on writes to paths that contain ``refused``."""

    protocol = "faulty"

    def __init__(self) -> None:
        super().__init__(global_store=False, skip_instance_cache=True)
        self.refused: str | None = None
        self.number = errno.ENOSPC

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: object) -> None:
        if self.refused is not None and self.refused in path:
            raise OSError(self.number, "refused", path)
        super().pipe_file(path, value, mode=mode)


class TrainingSetup:
    """A trainer in this process, with a queue worker that publishes what it has trained."""

    def __init__(self, base: SharedBase, base_dir: Path, catalog: Catalog, settings: Settings) -> None:
        self.files = FaultyFileSystem()
        self.store = ObjectStore("faulty://", self.files, "/root")
        self.catalog = catalog
        self.trainer = TrainerContext(base, catalog, self.store, owner="me", max_rank=16)
        self.worker = QueueWorker(catalog, self.store, settings, {BASE: BaseModelSource(base_dir)})

    def queue(self, name: str, *, words: int = 1, **recipe: object) -> Consolidation:
        """Submit a consolidation that waits for training."""
        batch = [episode(task, room=name, words=words) for task in range(14)]
        id = f"{name}-{len(self.catalog.list_consolidations(tenant='acme'))}"
        job = submit(
            self.catalog, self.store, f"acme/{name}", batch, base=BASE, recipe=RECIPE.model_copy(update=recipe), id=id
        )
        self.catalog.claim("synthesis", QueueStage.SYNTHESIS, limit=1, lease_s=600)
        put_examples(self.store, job, synthesize_in_memory([batch], 0.2)[1], self.trainer.base.folder)
        self.catalog.hand_over(job.id, "synthesis", ConsolidationState.TRAINING)
        return job

    def train(self, clock: Callable[[], float] = time.monotonic) -> None:
        def claim_all(limit: int) -> list[Consolidation]:
            return self.catalog.claim("me", QueueStage.TRAINING, limit=limit, lease_s=600)

        run_trainer(self.trainer, claim_all, should_stop=lambda: False, clock=clock, **LIMITS)  # type: ignore[arg-type]

    def complete(self, job: Consolidation) -> Consolidation:
        """Train and conclude everything that waits. Return ``job`` as it is then."""
        self.train()
        while self.worker.conclude():
            pass
        return self.catalog.get_consolidation(job.id)

    def events(self, job: Consolidation) -> list[str]:
        return [event.what for event in self.catalog.list_events(consolidation=job.id)]


@pytest.fixture(scope="module")
def base(base_dir: Path, one_process: None, device: Device) -> SharedBase:
    return SharedBase(base_dir, device)


@pytest.fixture
def setup(base: SharedBase, base_dir: Path, catalog: Catalog, settings: Settings) -> TrainingSetup:
    return TrainingSetup(base, base_dir, catalog, settings)


@pytest.fixture
def good(setup: TrainingSetup) -> Iterator[Consolidation]:
    """Submit a job that is trained together with the bad one, and assert at the end that it was published."""
    job = setup.queue("good")
    yield job
    ended = setup.complete(job)
    assert ended.state is ConsolidationState.PUBLISHED, ended.reason
    assert setup.store.list(keys.CHECKPOINTS) == []


def failure_reason(job: Consolidation) -> str:
    assert job.state is ConsolidationState.FAILED, job.state
    return str(job.reason)


def test_an_example_longer_than_max_seq_length_is_trained_in_windows(setup: TrainingSetup, good: Consolidation) -> None:
    job = setup.complete(setup.queue("long", words=200, max_seq_length=64))
    assert job.state in (ConsolidationState.PUBLISHED, ConsolidationState.REJECTED), job.reason


def test_an_unknown_strategy_option_fails(setup: TrainingSetup, good: Consolidation) -> None:
    assert "strategy 'replay' has no option 'speed'" in failure_reason(
        setup.complete(setup.queue("bad", strategy="replay(speed=2)"))
    )


def test_an_unknown_target_module_fails(setup: TrainingSetup, good: Consolidation) -> None:
    job = setup.complete(setup.queue("bad", target_modules=("q_proj", "query")))
    assert "the base model has no linear layer 'query'" in failure_reason(job)


@pytest.mark.parametrize("recipe", [{"rank": 0}, {"method": "prefix"}])
def test_an_invalid_recipe_is_refused(recipe: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(recipe)))):
        Recipe.model_validate(recipe)


def test_unreadable_or_missing_examples_fail(setup: TrainingSetup, good: Consolidation) -> None:
    bad, missing = setup.queue("bad"), setup.queue("missing")
    for job in (bad, missing):
        setup.store.delete(keys.examples(job.id, "train.windows.parquet"))
    setup.store.put(keys.examples(bad.id, "train.windows.parquet"), b"PAR1 and no more")
    assert "unexpected ArrowInvalid" in failure_reason(setup.complete(bad))
    assert f"object {keys.examples(missing.id, 'train.windows.parquet')} is not in the object store" in failure_reason(
        setup.complete(missing)
    )


def test_examples_of_another_base_model_fail(setup: TrainingSetup) -> None:
    job = setup.queue("any")
    key = keys.examples(job.id, "train.windows.parquet")
    table = read_windows(setup.store.get(key), setup.trainer.base.revision)
    replace_object(setup.store, key, write_windows(replace(table, base_revision="another")))
    assert "the examples were encoded for base revision another" in failure_reason(setup.complete(job))


def test_an_unreadable_checkpoint_is_discarded(setup: TrainingSetup, good: Consolidation) -> None:
    damaged, incompatible = setup.queue("torn"), setup.queue("strange")
    with pytest.raises(Killed):
        setup.train(clock=clock_that_kills_at(20))
    for job in (damaged, incompatible):
        (step,) = checkpoint.list_checkpoint_steps(setup.store, job.id)
        saved, content = checkpoint.load_checkpoint(setup.store, job.id, step)
        setup.store.delete(keys.checkpoints(job.id))
        if job is damaged:
            checkpoint.save_checkpoint(setup.store, job.id, saved, content)
            state, _ = sorted(setup.store.list(keys.checkpoints(job.id)), reverse=True)
            setup.store.delete(state)
            setup.store.put(state, content[:-1])
        else:
            checkpoint.save_checkpoint(setup.store, job.id, saved, save({"weight/0": torch.zeros(3, 3)}))
    for job in (damaged, incompatible):
        ended = setup.complete(job)
        assert ended.state is ConsolidationState.PUBLISHED, ended.reason
        assert sum("cannot be read: training resumes" in event for event in setup.events(job)) == 1


def test_a_full_store_at_a_checkpoint_fails_the_job(setup: TrainingSetup, good: Consolidation) -> None:
    job = setup.queue("big")
    setup.files.refused = f"{keys.checkpoints(job.id)}/step-"
    reason = failure_reason(setup.complete(job))
    assert reason.startswith(f"the object store is full: {keys.checkpoints(job.id)}/step-")


def test_a_full_store_at_the_candidate_fails_the_job(setup: TrainingSetup, good: Consolidation) -> None:
    job = setup.queue("big")
    setup.files.refused = f"{keys.checkpoints(job.id)}/candidate"
    assert "is full" in failure_reason(setup.complete(job))
    assert setup.store.list(keys.checkpoints(job.id)) == []


def test_a_full_store_at_publication_fails_the_job(setup: TrainingSetup, good: Consolidation) -> None:
    job = setup.queue("big")
    setup.train()
    setup.files.refused = f"{keys.strategy_state(job.instance, '')}".removesuffix(".safetensors")
    assert "is full" in failure_reason(setup.complete(job))
    assert setup.catalog.list_versions(job.instance) == []


def test_a_store_that_is_down_fails_no_job(setup: TrainingSetup, good: Consolidation) -> None:
    job = setup.queue("other")
    setup.files.refused, setup.files.number = "checkpoints", errno.EIO
    with pytest.raises(StoreUnavailable):
        setup.train()
    assert [each.state for each in setup.catalog.list_unfinished()] == [
        ConsolidationState.TRAINING,
        ConsolidationState.TRAINING,
    ]
    assert all((each.owner, each.attempts) == (None, 0) for each in setup.catalog.list_unfinished())
    setup.files.refused = None
    assert setup.complete(job).state is ConsolidationState.PUBLISHED


def test_checkpoints_of_a_cancelled_job_are_deleted(setup: TrainingSetup, good: Consolidation) -> None:
    job = setup.queue("cancelled")
    with pytest.raises(Killed):
        setup.train(clock=clock_that_kills_at(20))
    assert setup.store.list(keys.checkpoints(job.id))
    setup.catalog.cancel(job.id)
    setup.worker.sweep_checkpoints()
    assert setup.store.list(keys.checkpoints(job.id)) == []
    assert setup.store.list(keys.checkpoints(good.id)) != []


def test_a_job_that_kills_its_trainers_fails_and_the_others_do_not(setup: TrainingSetup, settings: Settings) -> None:
    """The last attempt trains the job alone, which shows that it is the cause."""
    limits = settings.consolidation.model_copy(update={"max_attempts": 3})
    training = TrainingRun(
        TrainerShape.PLAIN,
        "me",
        settings.model_copy(update={"consolidation": limits, "base": BASE}),
        BaseModelSource(Path()),
    )
    bad, *others = [setup.queue(name) for name in ("bad", "red", "blue")]
    deaths = 0
    while setup.catalog.list_unfinished():
        claimed = [job.id for job in claim_for_training(training, setup.catalog, 16)]
        if bad.id in claimed:
            deaths += 1
            setup.catalog.release(claimed, "me", crashed=True)
        else:
            for id in claimed:
                setup.catalog.hand_over(id, "me", ConsolidationState.EVALUATING)
                setup.catalog.cancel(id)
    assert deaths == 3
    assert failure_reason(setup.catalog.get_consolidation(bad.id)) == "its trainer died 3 times while training it"
    assert [setup.catalog.get_consolidation(job.id).attempts for job in others] == [3, 3]


class Killed(Exception):
    """Simulates the death of a worker."""


def clock_that_kills_at(reading: int) -> Callable[[], float]:
    """Return a clock that advances one second per reading, and raises Killed at ``reading``."""
    readings = itertools.count(1)

    def read() -> float:
        now = next(readings)
        if now == reading:
            raise Killed
        return float(now)

    return read


def test_a_candidate_of_a_base_model_that_was_removed_is_not_published(
    setup: TrainingSetup, base_dir: Path, settings: Settings
) -> None:
    job = setup.queue("orphan")
    setup.train()
    setup.worker = QueueWorker(setup.catalog, setup.store, settings, {"another": BaseModelSource(base_dir)})
    assert "base model 'tiny' is not one that is running (another)" in failure_reason(setup.complete(job))
    assert setup.catalog.list_versions(job.instance) == []
