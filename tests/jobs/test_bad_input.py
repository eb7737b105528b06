"""What is wrong with one consolidation fails that one, with a reason; the one beside it in the trainer is published."""

import errno
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from safetensors.torch import save

from looper.jobs.consolidation.model.device import Device
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.training import checkpoint
from looper.jobs.consolidation.training.run import TrainingRun, claim
from looper.jobs.consolidation.training.trainer import Trainer, run
from looper.jobs.queue.worker import QueueWorker
from looper.jobs.synthesis.output.output_files import in_memory
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation, ConsolidationState, QueueStage, Recipe, TrainerShape
from looper.platform.domain.errors import StoreUnavailable
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.settings import Settings
from tests.jobs.episodes import RECIPE, episode, submit

pytestmark = pytest.mark.usefixtures("one_process")

BASE = "tiny"
LIMITS = {"members_at_most": 16, "checkpoint_interval_s": 0.0, "lease_s": 600.0, "idle_timeout_s": 0.0}


class Crowded(MemoryFileSystem):
    """A store that has no room for what has ``refused`` in its path, or that does not answer for it."""

    protocol = "crowded"

    def __init__(self) -> None:
        super().__init__(global_store=False, skip_instance_cache=True)
        self.refused: str | None = None
        self.number = errno.ENOSPC

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: object) -> None:
        if self.refused is not None and self.refused in path:
            raise OSError(self.number, "refused", path)
        super().pipe_file(path, value, mode=mode)


class Place:
    """A trainer in this process, what it works on, and the foreman's part: synthesis before, conclusion after."""

    def __init__(self, base: SharedBase, base_dir: Path, catalog: Catalog, settings: Settings) -> None:
        self.files = Crowded()
        self.store = ObjectStore("crowded://", self.files, "/root")
        self.catalog = catalog
        self.trainer = Trainer(base, catalog, self.store, owner="me", max_rank=16)
        self.foreman = QueueWorker(catalog, self.store, settings, base_dir)

    def queue(self, name: str, *, words: int = 1, **recipe: object) -> Consolidation:
        """A consolidation that waits for training."""
        batch = [episode(task, room=name, words=words) for task in range(14)]
        id = f"{name}-{len(self.catalog.consolidations(tenant='acme'))}"
        job = submit(
            self.catalog, self.store, f"acme/{name}", batch, base=BASE, recipe=RECIPE.model_copy(update=recipe), id=id
        )
        self.catalog.claim("synthesis", QueueStage.SYNTHESIS, limit=1, lease_s=600)
        for part, content in in_memory([batch], 0.2)[1].items():
            self.store.put(keys.examples(job.id, part), content)
        self.catalog.hand_over(job.id, "synthesis", ConsolidationState.TRAINING)
        return job

    def train(self, clock: Callable[[], float] = time.monotonic) -> None:
        def claim(limit: int) -> list[Consolidation]:
            return self.catalog.claim("me", QueueStage.TRAINING, limit=limit, lease_s=600)

        run(self.trainer, claim, stopped=lambda: False, clock=clock, **LIMITS)  # type: ignore[arg-type]

    def end(self, job: Consolidation) -> Consolidation:
        """Train and conclude all that waits; return what became of ``job``."""
        self.train()
        while self.foreman.conclude():
            pass
        return self.catalog.consolidation(job.id)

    def events(self, job: Consolidation) -> list[str]:
        return [event.what for event in self.catalog.events(consolidation=job.id)]


@pytest.fixture(scope="module")
def base(base_dir: Path, one_process: None, device: Device) -> SharedBase:
    return SharedBase(base_dir, device)


@pytest.fixture
def place(base: SharedBase, base_dir: Path, catalog: Catalog, settings: Settings) -> Place:
    return Place(base, base_dir, catalog, settings)


@pytest.fixture
def good(place: Place) -> Iterator[Consolidation]:
    """One that is trained beside the bad one, and must not notice."""
    job = place.queue("good")
    yield job
    ended = place.end(job)
    assert ended.state is ConsolidationState.PUBLISHED, ended.reason
    assert place.store.list(keys.CHECKPOINTS) == []


def failed(job: Consolidation) -> str:
    assert job.state is ConsolidationState.FAILED, job.state
    return str(job.reason)


def test_an_example_longer_than_the_context_becomes_windows(place: Place, good: Consolidation) -> None:
    job = place.end(place.queue("long", words=200, max_seq_length=64))
    assert job.state in (ConsolidationState.PUBLISHED, ConsolidationState.REJECTED), job.reason


def test_an_option_that_a_strategy_has_not(place: Place, good: Consolidation) -> None:
    assert "strategy 'replay' has no option 'speed'" in failed(
        place.end(place.queue("bad", strategy="replay(speed=2)"))
    )


def test_a_target_module_that_the_base_lacks(place: Place, good: Consolidation) -> None:
    job = place.end(place.queue("bad", target_modules=("q_proj", "query")))
    assert "the base model has no linear layer 'query'" in failed(job)


@pytest.mark.parametrize("recipe", [{"rank": 0}, {"method": "prefix"}])
def test_a_recipe_that_cannot_be_is_never_queued(recipe: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(recipe)))):
        Recipe.model_validate(recipe)


def test_examples_that_cannot_be_read(place: Place, good: Consolidation) -> None:
    bad, missing = place.queue("bad"), place.queue("missing")
    for job in (bad, missing):
        place.store.delete(keys.examples(job.id, "train.parquet"))
    place.store.put(keys.examples(bad.id, "train.parquet"), b"PAR1 and no more")
    assert "unexpected ArrowInvalid" in failed(place.end(bad))
    assert f"object {keys.examples(missing.id, 'train.parquet')} is not in the store" in failed(place.end(missing))


def test_a_base_without_a_chat_template(place: Place) -> None:
    job = place.queue("any")
    tokenizer = place.trainer.base.tokenizer
    template, tokenizer.chat_template = tokenizer.chat_template, None
    try:
        assert "has no chat template to render examples with: choose an instruction" in failed(place.end(job))
    finally:
        tokenizer.chat_template = template


def test_a_checkpoint_that_cannot_be_read_is_not_gone_on_from(place: Place, good: Consolidation) -> None:
    torn, strange = place.queue("torn"), place.queue("strange")
    with pytest.raises(Killed):
        place.train(clock=dies_at(20))
    for job in (torn, strange):
        (step,) = checkpoint.saved_steps(place.store, job.id)
        saved, content = checkpoint.state(place.store, job.id, step)
        place.store.delete(keys.checkpoints(job.id))
        if job is torn:
            checkpoint.save_state(place.store, job.id, saved, content)
            state, _ = sorted(place.store.list(keys.checkpoints(job.id)), reverse=True)
            place.store.delete(state)
            place.store.put(state, content[:-1])
        else:
            checkpoint.save_state(place.store, job.id, saved, save({"weight/0": torch.zeros(3, 3)}))
    for job in (torn, strange):
        ended = place.end(job)
        assert ended.state is ConsolidationState.PUBLISHED, ended.reason
        assert sum("cannot be read: training goes on" in event for event in place.events(job)) == 1


def test_a_checkpoint_for_which_there_is_no_room(place: Place, good: Consolidation) -> None:
    job = place.queue("big")
    place.files.refused = f"{keys.checkpoints(job.id)}/step-"
    reason = failed(place.end(job))
    assert reason.startswith(f"object store crowded:// is full: {keys.checkpoints(job.id)}/step-")


def test_a_candidate_for_which_there_is_no_room(place: Place, good: Consolidation) -> None:
    job = place.queue("big")
    place.files.refused = f"{keys.checkpoints(job.id)}/candidate"
    assert "is full" in failed(place.end(job))
    assert place.store.list(keys.checkpoints(job.id)) == []


def test_a_version_for_which_there_is_no_room(place: Place, good: Consolidation) -> None:
    job = place.queue("big")
    place.train()
    place.files.refused = f"{keys.memory(job.instance, '')}".removesuffix(".safetensors")
    assert "is full" in failed(place.end(job))
    assert place.catalog.versions(job.instance) == []


def test_a_store_that_is_down_fails_nobody(place: Place, good: Consolidation) -> None:
    job = place.queue("other")
    place.files.refused, place.files.number = "checkpoints", errno.EIO
    with pytest.raises(StoreUnavailable):
        place.train()
    assert [each.state for each in place.catalog.unfinished()] == [
        ConsolidationState.TRAINING,
        ConsolidationState.TRAINING,
    ]
    assert all((each.owner, each.attempts) == (None, 0) for each in place.catalog.unfinished())
    place.files.refused = None
    assert place.end(job).state is ConsolidationState.PUBLISHED


def test_what_a_cancelled_one_left_is_swept(place: Place, good: Consolidation) -> None:
    job = place.queue("cancelled")
    with pytest.raises(Killed):
        place.train(clock=dies_at(20))
    assert place.store.list(keys.checkpoints(job.id))
    place.catalog.cancel(job.id)
    place.foreman.sweep()
    assert place.store.list(keys.checkpoints(job.id)) == []
    assert place.store.list(keys.checkpoints(good.id)) != []


def test_one_that_its_trainers_die_of_fails_and_gives_the_others_back(place: Place, settings: Settings) -> None:
    """Whose trainer dies with it is known once it is alone."""
    limits = settings.consolidation.model_copy(update={"max_attempts": 3})
    training = TrainingRun(
        TrainerShape.PLAIN, "me", settings.model_copy(update={"consolidation": limits, "base": BASE}), Path()
    )
    bad, *others = [place.queue(name) for name in ("bad", "red", "blue")]
    deaths = 0
    while place.catalog.unfinished():
        hands = [job.id for job in claim(training, place.catalog, 16)]
        if bad.id in hands:
            deaths += 1
            place.catalog.release(hands, "me", died=True)
        else:
            for id in hands:
                place.catalog.hand_over(id, "me", ConsolidationState.EVALUATING)
                place.catalog.cancel(id)
    assert deaths == 3
    assert failed(place.catalog.consolidation(bad.id)) == "its trainer died 3 times while training it"
    assert [place.catalog.consolidation(job.id).attempts for job in others] == [3, 3]


class Killed(Exception):
    """Stands for a worker's death."""


def dies_at(reading: int) -> Callable[[], float]:
    """A clock that goes a second at each reading, and is the last thing that its reader sees."""
    readings = itertools.count(1)

    def read() -> float:
        now = next(readings)
        if now == reading:
            raise Killed
        return float(now)

    return read
