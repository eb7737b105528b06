"""The loop of a trainer: one base model trains all consolidations that it can claim, many in each pass.

It runs in every worker of a training run (``training_run``). Rank 0 decides, and writes to catalog and store; every
other rank gets the outcome (``collective``) and computes. Members join and leave between two passes, on all ranks at
the same point. Their state is in the store, so that another trainer, or the same one after a restart, can resume.

How often checkpoints are written is the setting ``consolidation.checkpoint_interval_s``, which ``run_trainer`` compares
with the time after each pass.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from looper.jobs.consolidation.training import checkpoint
from looper.jobs.consolidation.training.checkpoint import Checkpoint
from looper.jobs.consolidation.training.checkpoint_writer import CheckpointWriter
from looper.jobs.consolidation.training.cohort import Cohort, Member, StepGroup, report_progress
from looper.jobs.consolidation.training.collective import broadcast_from_rank0, run_on_rank0
from looper.jobs.consolidation.training.finishing import finish
from looper.jobs.consolidation.training.joining import join
from looper.jobs.consolidation.training.trainer_context import TrainerContext
from looper.jobs.failures import UnexpectedError, fail_consolidation, run_isolated
from looper.jobs.queue.leases import LeaseHolder
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.errors import Conflict

T = TypeVar("T")

QUEUE_POLL_INTERVAL_S = 0.5
"""Seconds between two looks at the queue. Each look also reports progress, which reveals cancelled members."""

IDLE_SLEEP_S = 0.1
"""Seconds between two looks at the clock while there is nothing to train."""


def run_trainer(
    trainer: TrainerContext,
    claim: Callable[[int], list[Consolidation]],
    choose_to_pause: Callable[[Mapping[str, float]], str | None] = lambda _: None,
    *,
    should_stop: Callable[[], bool],
    max_members: int,
    checkpoint_interval_s: float,
    lease_s: float,
    progress_timeout_s: float = 600.0,
    idle_timeout_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Train what ``claim`` returns, until the trainer is told to stop or has been idle for some time.

    A new member takes its first step immediately: the step in progress pauses between two passes.

    Each member ends with a candidate in the store, handed over to the gate. A member that cannot be trained is failed
    in the catalog with the reason, and one that was cancelled or that another trainer holds is dropped. Neither affects
    the other members.

    Args:
        trainer: Base model, catalog and store.
        claim: Leases at most so many waiting consolidations. Called on rank 0 only.
        choose_to_pause: Returns the id of the member that gives its place to a consolidation that has waited too long,
            if any, given how many seconds each member has had its place. Called on rank 0 only, when no place is free.
        should_stop: Whether to save all members and return. Called on rank 0 only.
        max_members: Maximum number of members.
        checkpoint_interval_s: Seconds between two checkpoints of all members.
        lease_s: Duration of a lease in seconds.
        progress_timeout_s: Seconds without progress after which leases are no longer renewed.
        idle_timeout_s: Seconds without a member after which the trainer returns.
        clock: Returns the time in seconds. Only that of rank 0 counts.

    Raises:
        StoreUnavailable: If the object store or the catalog is down. All leases are released.
    """
    cohort = Cohort(trainer.base)
    last_poll, last_checkpoint, last_active = -float("inf"), clock(), clock()
    with (
        _hold_leases(trainer, lease_s, progress_timeout_s) as leases,
        closing(CheckpointWriter(trainer.store)) as writer,
    ):
        while True:
            trainer.progress.advance()
            # Only rank 0's clock and catalog count, so that all ranks do the same after the same pass.
            if broadcast_from_rank0(clock() - last_poll >= QUEUE_POLL_INTERVAL_S):
                if run_on_rank0(should_stop):
                    _save_checkpoints(cohort.members, writer, trainer)
                    return
                cohort.drop(_report_progress(cohort.members, trainer))
                cohort.drop(_fail_overdue(cohort.members, trainer))
                if len(cohort.members) >= max_members:
                    cohort.drop(_pause_one(cohort.members, choose_to_pause, writer, trainer, leases))
                free = max_members - len(cohort.members)
                claimed = run_on_rank0(partial(claim, free)) if free else []
                if leases is not None:
                    for job in claimed:
                        leases.add(job.id)
                if joined := _join_all(claimed, trainer):
                    cohort.add(joined)
                last_poll = clock()
            if not cohort.in_progress and cohort.waiting:
                cohort.start_step()
            if not cohort.in_progress:
                if broadcast_from_rank0(clock() - last_active >= idle_timeout_s):
                    return
                time.sleep(IDLE_SLEEP_S)
                continue
            group = cohort.in_progress[-1]
            trainer.suspects.work_on(member.job.id for member in group.remaining)
            has_more = group.step.run_pass()
            if not has_more:
                cohort.waiting += _take_steps(cohort.in_progress.pop(), trainer)
            last_active = clock()
            if broadcast_from_rank0(last_active - last_checkpoint >= checkpoint_interval_s):
                cohort.due += [member for member in cohort.members if member not in cohort.due]
                last_checkpoint = clock()
            cohort.drop(_advance_checkpoints(cohort, writer, trainer))


def _hold_leases(
    trainer: TrainerContext, lease_s: float, progress_timeout_s: float
) -> AbstractContextManager[LeaseHolder | None]:
    """Hold leases on rank 0 only: it saves before it releases them, and another rank would release before that."""
    if not trainer.is_rank0:
        return nullcontext()
    return LeaseHolder(
        trainer.catalog,
        trainer.owner,
        lease_s,
        progress=trainer.progress,
        progress_timeout_s=progress_timeout_s,
        find_suspects=trainer.suspects.find,
    )


def _isolate_failure(job: Consolidation, trainer: TrainerContext, action: Callable[[], T]) -> T | None:
    """Call ``action`` on every rank. An error that is the fault of ``job`` fails ``job`` alone, on all ranks.

    Args:
        job: The consolidation that ``action`` works on.
        trainer: The trainer.
        action: Must come to the same outcome on all ranks: see ``collective``.

    Returns:
        What ``action`` returned, or None if the training of ``job`` must not continue.
    """

    def fail(reason: str) -> None:
        run_on_rank0(lambda: fail_consolidation(trainer.catalog, trainer.store, job.id, trainer.owner, reason))

    trainer.suspects.work_on([job.id])
    result = run_isolated(job, action, fail, process="trainer", stops_all=_may_be_worker_or_device)
    trainer.progress.advance()
    return result


def _may_be_worker_or_device(error: Exception) -> bool:
    """Whether an error may come from the death of another worker or from the device, not from one consolidation.

    Such an error ends the trainer. The catalog's count of attempts reveals a consolidation that causes it each time.
    """
    is_on_all_ranks = isinstance(error, UnexpectedError) or dist.get_world_size() == 1
    return not is_on_all_ranks or isinstance(error, torch.AcceleratorError)


def _join_all(jobs: Sequence[Consolidation], trainer: TrainerContext) -> list[Member]:
    members = [_isolate_failure(job, trainer, partial(join, job, trainer)) for job in jobs]
    return [member for member in members if member is not None]


def _take_steps(group: StepGroup, trainer: TrainerContext) -> list[Member]:
    """Take the computed step of each member of ``group``. Return the members that have more steps to take."""
    unfinished: list[Member] = []
    for member, (loss, gradients) in zip(group.members, group.step.results(), strict=True):
        if member not in group.remaining:
            continue
        if _isolate_failure(member.job, trainer, partial(_take_step, member, loss, gradients, trainer)):
            unfinished.append(member)
    return unfinished


def _take_step(member: Member, loss: float, gradients: Sequence[Tensor], trainer: TrainerContext) -> bool:
    """Return whether ``member`` has more steps to take. ``loss`` is the same on all ranks, and so are its errors."""
    member.session.take_step(loss, gradients)
    if member.session.is_done:
        finish(member, trainer)
    return not member.session.is_done


def _fail_overdue(members: Sequence[Member], trainer: TrainerContext) -> list[Member]:
    """Fail the members that have held their places for too long. Return them."""

    def check(member: Member) -> bool:
        run_on_rank0(lambda: trainer.limits.check_time(member.training_s))
        return True

    limit_s = trainer.limits.max_hours * 3600
    overdue = broadcast_from_rank0([member.job.id for member in members if member.training_s > limit_s])
    late = [member for member in members if member.job.id in overdue]
    return [member for member in late if not _isolate_failure(member.job, trainer, partial(check, member))]


def _pause_one(
    members: Sequence[Member],
    choose: Callable[[Mapping[str, float]], str | None],
    writer: CheckpointWriter,
    trainer: TrainerContext,
    leases: LeaseHolder | None,
) -> list[Member]:
    """Save the member that ``choose`` names, if any, and put it back into the queue. Return it in a list."""
    now = time.monotonic()
    paused = run_on_rank0(lambda: choose({member.job.id: now - member.joined_at for member in members}))
    leaving = [member for member in members if member.job.id == paused]
    _save_checkpoints(leaving, writer, trainer)
    for member in leaving:
        if leases is not None:
            leases.remove(member.job.id)
        run_on_rank0(partial(trainer.catalog.release, [member.job.id], trainer.owner))
    return leaving


def _advance_checkpoints(cohort: Cohort, writer: CheckpointWriter, trainer: TrainerContext) -> list[Member]:
    """Conclude a checkpoint that has been written, and begin the next one. Return the members that must not continue.

    All ranks know what is due and what is being written, so they only talk to each other if there is something.
    """
    stopped: list[Member] = []
    while cohort.saving is not None or cohort.due:
        if cohort.saving is None:
            member = cohort.due.pop(0)
            if member not in cohort.members or member in stopped or member.session.loss is None:
                continue
            begin = partial(run_on_rank0, partial(_begin_checkpoint, member, writer))
            if not _isolate_failure(member.job, trainer, begin):
                stopped.append(member)
                continue
            cohort.saving = member
        if not run_on_rank0(writer.has_ended):
            break
        saved, cohort.saving = cohort.saving, None
        conclude = partial(run_on_rank0, partial(_conclude_checkpoint, saved, writer, trainer))
        # How it ended does not matter to a member that has left.
        if saved in cohort.members and not _isolate_failure(saved.job, trainer, conclude):
            stopped.append(saved)
    return stopped


def _begin_checkpoint(member: Member, writer: CheckpointWriter) -> bool:
    session = member.session
    assert session.loss is not None, "only members that have taken a step are saved"
    writer.begin(member.job.id, Checkpoint(step=session.step, loss=session.loss), session.serialize_state())
    return True


def _conclude_checkpoint(member: Member, writer: CheckpointWriter, trainer: TrainerContext) -> bool:
    if writer.result():
        report_progress(member, trainer, saved=True)
    return True


def _save_checkpoints(members: Sequence[Member], writer: CheckpointWriter, trainer: TrainerContext) -> None:
    """Write a checkpoint of each member that has taken a step, before they leave."""
    for member in members:
        if member.session.loss is not None:
            save = partial(_save_checkpoint, member, writer, trainer)
            _isolate_failure(member.job, trainer, partial(run_on_rank0, save))


def _save_checkpoint(member: Member, writer: CheckpointWriter, trainer: TrainerContext) -> bool:
    """Write a checkpoint unless there is one of this step. Return True."""
    writer.wait()  # it may be this member's
    session = member.session
    assert session.loss is not None, "only members that have taken a step are saved"
    state = Checkpoint(step=session.step, loss=session.loss)
    if checkpoint.save_checkpoint(trainer.store, member.job.id, state, session.serialize_state()):
        report_progress(member, trainer, saved=True)
    return True


def _report_progress(members: Sequence[Member], trainer: TrainerContext) -> list[Member]:
    """Write the members' progress. Return those that were cancelled or that another trainer holds by now."""

    def report_all() -> set[str]:
        lost: set[str] = set()
        for member in members:
            try:
                report_progress(member, trainer)
            except Conflict:
                lost.add(member.job.id)
        return lost

    lost = run_on_rank0(report_all)
    return [member for member in members if member.job.id in lost]
