"""What one consolidation does in a shared trainer costs that one, and not its neighbors: bad examples, NaN, hours."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.training import checkpoint, cohort
from looper.jobs.consolidation.training.cohort import Cohort, Member
from looper.jobs.consolidation.training.fused_step import FusedStep
from looper.jobs.consolidation.training.job_limits import JobLimits
from looper.jobs.consolidation.training.session import TrainingSession
from looper.jobs.consolidation.training.trainer import run_trainer
from looper.jobs.consolidation.training.trainer_context import TrainerContext
from looper.jobs.synthesis.output.example_table import read_examples
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.states import ConsolidationState, QueueStage
from looper.platform.objectstore import ObjectStore, keys
from tests.jobs.consolidation.training.test_trainer import (
    claim,
    max_relative_difference,
    reset_to_training,
    submit_job,
    ticking_clock,
    train_jobs,
    weights,
)
from tests.jobs.windows import put_examples
from tests.tiny import FLOAT32

pytestmark = pytest.mark.usefixtures("one_process")


@pytest.fixture(scope="module")
def base(base_dir: Path, one_process: None) -> SharedBase:
    return SharedBase(base_dir, FLOAT32)


@pytest.fixture
def trainer(base: SharedBase, catalog: Catalog, store: ObjectStore) -> TrainerContext:
    return TrainerContext(base, catalog, store, owner="me", max_rank=16)


def refuse(trainer: TrainerContext, job: Consolidation, part: str, folder: Path, condition: str, how: str) -> None:
    """Encode a part of the examples with a template that fails: ``how`` is what it does in Jinja."""
    shutil.copytree(trainer.base.folder, folder)
    file = folder / "chat_template.jinja"
    file.write_text(f"{{% if {condition} %}}{{{{ {how} }}}}{{% endif %}}{file.read_text()}")
    parts = {f"{part}.parquet": trainer.store.get(keys.examples(job.id, f"{part}.parquet"))}
    put_examples(trainer.store, job, parts, folder)


def asks_for(task: str) -> str:
    """Return the condition that a conversation is about a task."""
    return f"(messages | map(attribute='content') | join(' ')).find('day {task.removeprefix('task-')}.') >= 0"


def task_of(trainer: TrainerContext, job: Consolidation, part: str) -> str:
    return read_examples(trainer.store.get(keys.examples(job.id, f"{part}.parquet")))[0].task_id


def state(trainer: TrainerContext, job: Consolidation) -> tuple[ConsolidationState, str | None]:
    now = trainer.catalog.get_consolidation(job.id)
    return now.state, now.reason


@pytest.mark.parametrize("how", ["raise_exception('no')", "1 // 0"])
@pytest.mark.parametrize("part", ["train", "holdout"])
def test_an_example_that_cannot_be_rendered_is_left_out_and_counted(
    trainer: TrainerContext, part: str, how: str, tmp_path: Path
) -> None:
    submit_job(trainer, "red")
    (job,) = claim(trainer)
    refuse(trainer, job, part, tmp_path / "base", asks_for(task_of(trainer, job, part)), how)
    train_jobs([job], trainer)
    assert state(trainer, job) == (ConsolidationState.EVALUATING, None)
    scores = checkpoint.load_candidate(trainer.store, job.id).scores
    events = [event.what for event in trainer.catalog.list_events(consolidation=job.id)]
    progress = trainer.catalog.get_consolidation(job.id).progress
    assert progress is not None
    if part == "train":
        assert progress.left_out == 2
        assert [what for what in events if what.startswith("turns left out: 2, because the base model cannot be")]
    else:
        assert list((scores.left_out or {}).values()) == [2]


def test_a_job_without_any_example_that_can_be_rendered_fails_by_name(trainer: TrainerContext, tmp_path: Path) -> None:
    submit_job(trainer, "red")
    (job,) = claim(trainer)
    refuse(trainer, job, "train", tmp_path / "base", "true", "raise_exception('roles must alternate')")
    train_jobs([job], trainer)
    failed, reason = state(trainer, job)
    assert failed is ConsolidationState.FAILED
    assert "none of the training examples can be taught to the base model: the chat template" in str(reason)
    assert "refuses it: roles must alternate" in str(reason)


def test_one_bad_step_is_skipped_and_costs_the_neighbor_nothing(trainer: TrainerContext) -> None:
    submit_job(trainer, "red")
    submit_job(trainer, "blue", seed=1)
    red, blue = claim(trainer)
    train_jobs([red, blue], trainer)
    expected = weights(trainer, blue)
    red, blue = reset_to_training(trainer, [red, blue])
    results, calls = FusedStep.results, iter(range(100))

    def spoil_second(step: FusedStep) -> list[tuple[float, list[Tensor]]]:
        if next(calls) == 1:
            red_index = [session.recipe.seed for session in step._sessions].index(0)
            step._gradients[red_index][0][0] = torch.inf  # its loss stays finite
        return results(step)

    with patch.object(FusedStep, "results", spoil_second):
        train_jobs([red, blue], trainer)
    assert state(trainer, red) == (ConsolidationState.EVALUATING, None)
    assert checkpoint.load_candidate(trainer.store, red.id).scores.skipped_steps == 1
    assert all(torch.isfinite(tensor).all() for tensor in weights(trainer, red).values())
    assert checkpoint.load_candidate(trainer.store, blue.id).scores.skipped_steps == 0
    assert max_relative_difference(weights(trainer, blue), expected) == 0


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (JobLimits(max_steps=5), "training takes 6 steps, more than consolidation.max_steps_per_job 5"),
        (JobLimits(max_tokens=100), "tokens, more than consolidation.max_tokens_per_job 100"),
        (JobLimits(max_hours=0), "hours, more than consolidation.max_hours_per_job 0"),
    ],
)
def test_a_job_above_a_limit_fails_by_name_and_its_neighbor_trains(
    base: SharedBase, catalog: Catalog, store: ObjectStore, limits: JobLimits, reason: str
) -> None:
    trainer = TrainerContext(base, catalog, store, owner="me", max_rank=16, limits=limits)
    submit_job(trainer, "long")
    (job,) = claim(trainer)
    train_jobs([job], trainer, clock=ticking_clock(0, lambda: None))
    failed, why = state(trainer, job)
    assert failed is ConsolidationState.FAILED
    assert reason in str(why)


def test_a_job_at_the_limits_trains(base: SharedBase, catalog: Catalog, store: ObjectStore) -> None:
    trainer = TrainerContext(base, catalog, store, owner="me", max_rank=16, limits=JobLimits(max_steps=6))
    submit_job(trainer, "long")
    (job,) = claim(trainer)
    train_jobs([job], trainer)
    assert state(trainer, job)[0] is ConsolidationState.EVALUATING


def test_only_the_culprit_is_charged_when_the_device_fails(trainer: TrainerContext) -> None:
    submit_job(trainer, "red", seed=1)
    submit_job(trainer, "blue", seed=2)
    for job in claim(trainer):
        trainer.catalog.hand_over(job.id, "me", ConsolidationState.TRAINING)
    red, blue = trainer.catalog.claim("me", QueueStage.TRAINING, limit=8, lease_s=600)
    take_step = TrainingSession.take_step

    def fail_for_blue(session: TrainingSession, loss: float, gradients: Sequence[Tensor]) -> None:
        if session.recipe.seed == 2:
            raise torch.AcceleratorError("device-side assert")
        take_step(session, loss, gradients)

    with patch.object(TrainingSession, "take_step", fail_for_blue), pytest.raises(torch.AcceleratorError):
        train_jobs([red, blue], trainer)
    attempts = [trainer.catalog.get_consolidation(job.id).attempts for job in (red, blue)]
    assert attempts == [0, 1]


def test_a_paused_member_gives_its_place_and_goes_on_later(trainer: TrainerContext) -> None:
    submit_job(trainer, "red")
    submit_job(trainer, "blue", seed=1)
    red, blue = claim(trainer)
    train_jobs([red, blue], trainer)
    expected = [weights(trainer, job) for job in (red, blue)]
    red, blue = reset_to_training(trainer, [red, blue])
    trainer.catalog.release([red.id, blue.id], "me")
    polls = iter(range(1000))
    order: list[str] = []

    def claim_one(limit: int) -> list[Consolidation]:
        claimed = trainer.catalog.claim("me", QueueStage.TRAINING, limit=limit, lease_s=600)
        order.extend(job.instance.instance for job in claimed)
        return claimed

    run_trainer(
        trainer,
        claim_one,
        # Twice in the middle of its training, the only member gives its place.
        lambda held_s: next(iter(held_s)) if next(polls) in (4, 8) else None,
        should_stop=lambda: False,
        clock=ticking_clock(0, lambda: None),
        max_members=1,
        checkpoint_interval_s=600.0,
        lease_s=600,
        idle_timeout_s=0.0,
    )
    assert len(order) == 4
    for job, weights_then in zip((red, blue), expected, strict=True):
        assert state(trainer, job)[0] is ConsolidationState.EVALUATING
        assert max_relative_difference(weights(trainer, job), weights_then) < 1e-4


def test_members_get_equal_tokens_whatever_their_batches_are(base: SharedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = {"large": 900, "small": 100}
    monkeypatch.setattr(cohort, "tokens_of_step", tokens.__getitem__)
    monkeypatch.setattr(cohort, "select_for_one_pass", lambda sessions, _: sessions[:1])
    monkeypatch.setattr(cohort, "FusedStep", lambda *_: None)
    members = Cohort(base)
    large, small, late = (Member(None, session, None, None) for session in ("large", "small", "small"))  # type: ignore[arg-type]
    members.waiting = [large, small]
    taken: list[Member] = []

    def take(steps: int) -> None:
        for _ in range(steps):
            members.start_step()
            (group,) = members.in_progress
            taken.extend(group.members)
            members.waiting += members.in_progress.pop().members

    take(100)
    assert taken.count(small) == pytest.approx(9 * taken.count(large), rel=0.2)
    members.add([late])
    members.waiting += members.in_progress.pop().members
    taken.clear()
    take(190)
    assert [taken.count(each) for each in (large, small, late)] == pytest.approx([10, 90, 90], abs=10)
