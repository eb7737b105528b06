"""A trainer holds one base model and trains whatever consolidations it can claim, many in each pass over the base.

Runs in every worker of a training run. Rank 0 decides, and writes to catalog and store; every other rank gets the
outcome (``collective``) and computes. Members join and leave between two passes, on all ranks at once. Their state is
in the store, so that another trainer, or the same one after a restart, goes on from there.
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from looper.jobs.consolidation import adapter_file, checkpoint, memory
from looper.jobs.consolidation.checkpoint import Candidate, Checkpoint
from looper.jobs.consolidation.cohort import Cohort, Member, StepGroup, Trainer, report_progress
from looper.jobs.consolidation.collective import UnexpectedError, broadcast_from_rank0, run_on_rank0
from looper.jobs.consolidation.examine import examine, score
from looper.jobs.consolidation.heldout import Questions, gather
from looper.jobs.consolidation.joining import encoder, join
from looper.jobs.consolidation.lora import Lora
from looper.jobs.consolidation.preference import margins
from looper.jobs.consolidation.shared_base import SharedBase
from looper.jobs.leases import Leases
from looper.platform.domain.consolidation import Consolidation, State
from looper.platform.domain.errors import Conflict, LooperError, StoreFull, StoreUnavailable
from looper.platform.objectstore import keys

__all__ = ["Trainer", "run"]

log = logging.getLogger(__name__)

T = TypeVar("T")

LOOK_S = 0.5
"""Between two looks at the queue. With each, progress is reported, which is how a member is seen to be cancelled."""

IDLE_S = 0.1
"""Between two looks at the clock while there is nothing to train."""


def run(
    trainer: Trainer,
    claim: Callable[[int], list[Consolidation]],
    *,
    stopped: Callable[[], bool],
    members_at_most: int,
    checkpoint_s: float,
    lease_s: float,
    idle_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Train what ``claim`` gives, up to the number it is asked for, until ``stopped`` or idle for ``idle_s``.

    A newcomer takes its first step at once: the step that is under way then pauses between two passes.

    Each member ends with a candidate in the store, handed over for its verdict; one that cannot be trained is failed in
    the catalog with its reason, and one that was cancelled or is another's by now is dropped: the others do not notice.
    Raises StoreUnavailable when store or catalog fail, which is nobody's fault.
    """
    cohort = Cohort(trainer.base)
    looked, saved, busy = -float("inf"), clock(), clock()
    with _leases(trainer, lease_s) as leases:
        while True:
            # Only rank 0's clock and catalog count, so that all ranks do the same after the same pass.
            if broadcast_from_rank0(clock() - looked >= LOOK_S):
                if run_on_rank0(stopped):
                    _save(cohort.members, trainer)
                    return
                cohort.drop(_report(cohort.members, trainer))
                room = members_at_most - len(cohort.members)
                claimed = run_on_rank0(partial(claim, room)) if room else []
                if leases is not None:
                    for job in claimed:
                        leases.add(job.id)
                if joined := _join_all(claimed, trainer):
                    cohort.join(joined)
                looked = clock()
            if not cohort.under_way and cohort.waiting:
                cohort.begin(len(cohort.waiting))
            if not cohort.under_way:
                if broadcast_from_rank0(clock() - busy >= idle_s):
                    return
                time.sleep(IDLE_S)
                continue
            if not cohort.under_way[-1].step.advance():
                cohort.waiting += _advance(cohort.under_way.pop(), trainer)
            busy = clock()
            if broadcast_from_rank0(busy - saved >= checkpoint_s):
                cohort.drop(_save(cohort.members, trainer))
                saved = clock()


def _leases(trainer: Trainer, lease_s: float) -> AbstractContextManager[Leases | None]:
    """Held by rank 0 alone: at the end it saves before it releases, and another rank would release before that."""
    return Leases(trainer.catalog, trainer.owner, lease_s) if trainer.leads else nullcontext()


def _isolate_failure(job: Consolidation, trainer: Trainer, act: Callable[[], T]) -> T | None:
    """Call ``act`` on every rank. An error in it ends ``job`` alone, on all ranks.

    Args:
        act: Must come to the same outcome on all ranks: see ``collective``.

    Returns:
        What ``act`` returned, or None if ``job`` must not go on.

    Raises:
        StoreUnavailable: If the store or the catalog is down. A full store fails ``job`` instead, which leaves the
            others room.
        Exception: What may be the device's fault or the death of another worker.
    """
    try:
        return act()
    except Conflict:
        return None  # cancelled, or another's by now: nothing of it is ours to write
    except LooperError as error:
        if isinstance(error, StoreUnavailable) and not isinstance(error, StoreFull):
            raise
        reason = str(error)
    except Exception as error:
        on_all_ranks = isinstance(error, UnexpectedError) or dist.get_world_size() == 1
        if not on_all_ranks or isinstance(error, torch.AcceleratorError):
            raise  # it may be another worker's death or the device's: the attempts at each tell in the end
        log.exception("consolidation %s of %s", job.id, job.instance)
        what = str(error) if isinstance(error, UnexpectedError) else f"{type(error).__name__}: {error}"
        reason = f"unexpected {what}".splitlines()[0] + "; see the trainer's log"
    run_on_rank0(partial(_fail, job, trainer, reason))
    return None


def _fail(job: Consolidation, trainer: Trainer, reason: str) -> None:
    with suppress(Conflict):
        trainer.catalog.fail(job.id, trainer.owner, reason)
        trainer.store.delete(keys.checkpoints(job.id))


def _join_all(jobs: Sequence[Consolidation], trainer: Trainer) -> list[Member]:
    joining = [_isolate_failure(job, trainer, partial(join, job, trainer)) for job in jobs]
    return [member for member in joining if member is not None]


def _advance(ended: StepGroup, trainer: Trainer) -> list[Member]:
    """End the step of each; return those that have more to do."""
    going: list[Member] = []
    for member, (loss, gradients) in zip(ended.members, ended.step.results(), strict=True):
        if member not in ended.staying:
            continue
        if _isolate_failure(member.job, trainer, partial(_take_step, member, loss, gradients, trainer)):
            going.append(member)
    return going


def _take_step(member: Member, loss: float, gradients: Sequence[Tensor], trainer: Trainer) -> bool:
    """Return whether ``member`` has more steps to take. ``loss`` is the same on all ranks, and so is what it raises."""
    member.tenant.advance(loss, gradients)
    if member.tenant.done:
        _finish(member, trainer)
    return not member.tenant.done


def _finish(member: Member, trainer: Trainer) -> None:
    lora, error = member.tenant.finish(trainer.max_rank)
    member.tenant.close()

    def ask() -> Questions:
        report_progress(member, trainer)
        return gather(member.job, trainer.catalog, trainer.store, encoder(member.job, trainer))

    asked = run_on_rank0(ask)
    examined = partial(_examined, member, lora, error, asked, trainer.base)
    if trainer.base.sharded:  # then each computation on it takes all ranks, the strategy's included
        candidate = examined()
        run_on_rank0(lambda: _hand_over(member.job, candidate, trainer))
    else:
        run_on_rank0(lambda: _hand_over(member.job, examined(), trainer))


def _examined(member: Member, lora: Lora, error: float, asked: Questions, base: SharedBase) -> Candidate:
    """The trained adapter ``lora``, its scores, and what its strategy remembers."""
    tenant = member.tenant
    served, rounding = base.served
    scores = examine(served, lora, member.start, asked, max(error, rounding))
    if scores.conversion_error:
        scores = scores.model_copy(update={"trained": score(base, tenant.acting, asked.new)})
    if member.contrasts is not None:
        scores = scores.model_copy(update={"margins": margins(served, member.start, lora, member.contrasts)})
    return Candidate(
        weights=adapter_file.weights_bytes(lora),
        config=adapter_file.config_bytes(lora, member.job.base),
        memory=memory.to_bytes(tenant.strategy.remember(lora)),
        scores=scores,
    )


def _hand_over(job: Consolidation, candidate: Candidate, trainer: Trainer) -> None:
    checkpoint.save_candidate(trainer.store, job.id, candidate)
    trainer.catalog.hand_over(job.id, trainer.owner, State.EVALUATING)


def _save(members: Sequence[Member], trainer: Trainer) -> list[Member]:
    """Write a checkpoint of each; return the members that must not go on."""
    begun = [member for member in members if member.tenant.loss is not None]
    saving = [partial(_save_state, member, trainer) for member in begun]
    return [
        member
        for member, save in zip(begun, saving, strict=True)
        if not _isolate_failure(member.job, trainer, partial(run_on_rank0, save))
    ]


def _save_state(member: Member, trainer: Trainer) -> bool:
    """True, unless it raises."""
    tenant = member.tenant
    assert tenant.loss is not None, "it has taken a step"
    state = Checkpoint(step=tenant.step, loss=tenant.loss)
    if checkpoint.save_state(trainer.store, member.job.id, state, tenant.state_bytes()):
        report_progress(member, trainer, saved=True)
    return True


def _report(members: Sequence[Member], trainer: Trainer) -> list[Member]:
    """Write the members' progress; return those that were cancelled or that another trainer holds by now."""

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
