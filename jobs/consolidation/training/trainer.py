"""A trainer holds one base model and trains whatever consolidations it can claim, many in each pass over the base.

Runs in every worker of a training run. The first worker decides, and writes to catalog and store; the others only
compute. Members come and go between two passes. What any of them was at is in the store, so that another trainer, or
the same one after a restart, goes on from there.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
import torch.distributed as dist
from safetensors import SafetensorError

from looper.jobs.consolidation.adapters import adapter_file
from looper.jobs.consolidation.adapters.lora import Lora
from looper.jobs.consolidation.data.encode import Window, encode
from looper.jobs.consolidation.data.preference import Contrasts, contrasts, margins
from looper.jobs.consolidation.evaluation.candidate_scores import examine, score
from looper.jobs.consolidation.evaluation.heldout import gather
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.strategies import strategy_state as memory
from looper.jobs.consolidation.training import checkpoint
from looper.jobs.consolidation.training.checkpoint import Candidate, Checkpoint
from looper.jobs.consolidation.training.fused_step import FusedStep, next_together
from looper.jobs.consolidation.training.member import TrainingMember
from looper.jobs.consolidation.training.session import begin
from looper.jobs.queue.leases import LeaseHolder
from looper.jobs.synthesis.output.example_table import read_examples, read_pairs
from looper.platform import adapters
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation, ConsolidationState, TrainingProgress
from looper.platform.domain.errors import Conflict, InvalidInput, LooperError, NotFound, StoreFull, StoreUnavailable
from looper.platform.domain.example import Example
from looper.platform.objectstore import ObjectStore, keys

log = logging.getLogger(__name__)

T = TypeVar("T")

LOOK_S = 0.5
"""Between two looks at the queue. With each, progress is reported, which is how a member is seen to be cancelled."""

IDLE_S = 0.1
"""Between two looks at the clock while there is nothing to train."""


@dataclass(frozen=True)
class Trainer:
    """One base in memory, catalog and store, and the name that holds the claims."""

    base: SharedBase
    catalog: Catalog
    store: ObjectStore
    owner: str
    max_rank: int
    """Largest rank that the server takes."""

    @property
    def leads(self) -> bool:
        return dist.get_rank() == 0


@dataclass(frozen=True, eq=False)
class Member:
    """A consolidation in training."""

    job: Consolidation
    tenant: TrainingMember
    start: Lora | None
    contrasts: Contrasts | None
    """None if the recipe gives a preference loss no weight."""


@dataclass
class StepGroup:
    """Members whose next step is under way."""

    members: list[Member]
    step: FusedStep
    lost: list[Member] = field(default_factory=list)
    """Of them, who will not take it: cancelled meanwhile, or another's."""

    @property
    def staying(self) -> list[Member]:
        return [member for member in self.members if member not in self.lost]


def run(
    trainer: Trainer,
    claim: Callable[[int], list[Consolidation]],
    *,
    stopped: Callable[[], bool],
    members_at_most: int,
    checkpoint_interval_s: float,
    lease_s: float,
    idle_timeout_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Train what ``claim`` gives, up to the number it is asked for, until ``stopped`` or idle for ``idle_timeout_s``.

    A newcomer takes its first step at once: the step that is under way then pauses between two passes.

    Each member ends with a candidate in the store, handed over for its verdict; one that cannot be trained is failed in
    the catalog with its reason, and one that was cancelled or is another's by now is dropped: the others do not notice.
    Raises StoreUnavailable when store or catalog fail, which is nobody's fault.
    """
    waiting: list[Member] = []  # for their next step, the longest first
    under_way: list[StepGroup] = []  # the last is worked at; those before it have made room for newcomers
    looked, saved, busy = -float("inf"), clock(), clock()
    with LeaseHolder(trainer.catalog, trainer.owner, lease_s) as leases:
        while True:
            # Only the first worker's clock and catalog count, so that all do the same after the same pass.
            if _broadcast_from_rank0(clock() - looked >= LOOK_S):
                members = _all(waiting, under_way)
                if _broadcast_from_rank0(stopped()):
                    _save(members, trainer)
                    return
                lost = _report(members, trainer)
                waiting = [member for member in waiting if member not in lost]
                for together in under_way:
                    together.lost += [member for member in together.members if member in lost]
                room = members_at_most - len(members) + len(lost)
                claimed = _broadcast_from_rank0(claim(room) if trainer.leads and room else [])
                for job in claimed:
                    leases.add(job.id)
                if joined := list(_join_all(claimed, trainer)):
                    waiting = [*joined, *waiting]
                    under_way.append(_begin(waiting, len(joined), trainer))
                looked = clock()
            if not under_way and waiting:
                under_way.append(_begin(waiting, len(waiting), trainer))
            if not under_way:
                if _broadcast_from_rank0(clock() - busy >= idle_timeout_s):
                    return
                time.sleep(IDLE_S)
                continue
            if not under_way[-1].step.advance():
                waiting += _advance(under_way.pop(), trainer)
            busy = clock()
            if _broadcast_from_rank0(busy - saved >= checkpoint_interval_s):
                _save(_all(waiting, under_way), trainer)
                saved = clock()


def _all(waiting: Sequence[Member], under_way: Sequence[StepGroup]) -> list[Member]:
    return [*waiting, *(member for together in under_way for member in together.staying)]


def _begin(waiting: list[Member], first: int, trainer: Trainer) -> StepGroup:
    """The next step of as many of the ``first`` members as fill a pass; they wait no more."""
    tenants = [member.tenant for member in waiting[:first]]
    count = len(next_together(tenants, trainer.base.tokens_at_once))
    members, waiting[:] = waiting[:count], waiting[count:]
    return StepGroup(members, FusedStep(trainer.base, [member.tenant for member in members]))


@contextmanager
def _isolate_failure(job: Consolidation, trainer: Trainer) -> Iterator[None]:
    """What goes wrong inside fails ``job`` only, unless it is the store's or the catalog's fault.

    A full store is not: it is what there is no room for that fails, and leaves its room to the others.
    """
    try:
        yield
    except Conflict:
        pass  # cancelled, or another's by now: nothing of it is ours to write
    except LooperError as error:
        if isinstance(error, StoreUnavailable) and not isinstance(error, StoreFull):
            raise
        _fail(job, trainer, str(error))
    except Exception as error:
        if dist.get_world_size() > 1 or isinstance(error, torch.AcceleratorError):
            raise  # it may be another worker's death or the device's: the attempts at each tell in the end
        log.exception("consolidation %s of %s", job.id, job.instance)
        _fail(job, trainer, f"unexpected {type(error).__name__}: {error}".splitlines()[0] + "; see the trainer's log")


def _fail(job: Consolidation, trainer: Trainer, reason: str) -> None:
    if trainer.leads:
        with suppress(Conflict):
            trainer.catalog.fail(job.id, trainer.owner, reason)
            trainer.store.delete(keys.checkpoints(job.id))


def _join_all(jobs: Sequence[Consolidation], trainer: Trainer) -> Iterator[Member]:
    for job in jobs:
        member = None
        with _isolate_failure(job, trainer):
            member = _join(job, trainer)
        if member is not None:
            yield member


def _join(job: Consolidation, trainer: Trainer) -> Member | None:
    """Get ``job`` ready to step. None if it was trained already and only waits for its verdict."""
    if checkpoint.has_candidate(trainer.store, job.id):
        _hand_over(job, trainer)
        return None
    start = None if job.parent is None else _version(job, job.parent, trainer)
    past = memory.recall(trainer.store, job.instance, job.parent)
    train = _windows(job, trainer)
    found = _contrasts(job, trainer) if job.recipe.preference_weight else None
    pairs = found.usable if found else ()
    tenant = _resumed(job, trainer, lambda: begin(trainer.base, job.recipe, train, start, past, pairs))
    member = Member(job, tenant, start, found)
    if trainer.leads:
        try:
            _report_progress(member, trainer)
        except LooperError:
            tenant.close()
            raise
    return member


def _resumed(job: Consolidation, trainer: Trainer, begun: Callable[[], TrainingMember]) -> TrainingMember:
    """At its newest checkpoint that can be gone on from, or at the beginning: training comes to the same either way."""
    for step in _broadcast_from_rank0(checkpoint.saved_steps(trainer.store, job.id)):
        tenant = begun()
        try:
            saved, tensors = checkpoint.state(trainer.store, job.id, step)
            tenant.resume(saved.step, saved.loss, tensors)
        except (NotFound, ValueError, KeyError, RuntimeError, SafetensorError) as error:  # torn, or of another Looper
            tenant.close()
            if trainer.leads:
                log.warning("consolidation %s: checkpoint of step %s: %s", job.id, step, error)
                what = (
                    f"the checkpoint of step {step} cannot be read: training goes on from an older one or begins anew"
                )
                trainer.catalog.note(job.id, trainer.owner, what)
                checkpoint.drop_state(trainer.store, job.id, step)
        else:
            return tenant
    return begun()


def _version(job: Consolidation, digest: str, trainer: Trainer) -> Lora:
    """The version that ``job`` goes on from."""
    files = adapters.fetch(trainer.store, job.instance.tenant, digest)
    theirs = files.read_manifest().base_revision
    if theirs != trainer.base.revision:
        raise InvalidInput(
            f"{job.instance} cannot go on from its current version {digest}: that was trained on base revision "
            f"{theirs}, and the base is {trainer.base.revision} now; roll back to a version that fits, or make a new "
            "instance"
        )
    lora = adapter_file.read(files.weights, files.config)
    return {layer: each.to(trainer.base.device) for layer, each in lora.items()}


def _windows(job: Consolidation, trainer: Trainer) -> list[Window]:
    """To train on."""
    examples = read_examples(trainer.store.get(keys.examples(job.id, "train.parquet")))
    encode = _encode(job, trainer)
    return [window for example in examples for window in encode(example)]


def _contrasts(job: Consolidation, trainer: Trainer) -> Contrasts:
    """To prefer the one turn of to the other."""
    pairs = read_pairs(trainer.store.get(keys.examples(job.id, "pairs.parquet")))
    return contrasts(pairs, trainer.base.tokenizer, job.recipe.max_seq_length)


def _encode(job: Consolidation, trainer: Trainer) -> Callable[[Example], list[Window]]:
    return partial(encode, tokenizer=trainer.base.tokenizer, max_seq_length=job.recipe.max_seq_length)


def _advance(together: StepGroup, trainer: Trainer) -> list[Member]:
    """End the step of each; return those that have more to do."""
    going: list[Member] = []
    for member, (loss, gradients) in zip(together.members, together.step.results(), strict=True):
        if member not in together.staying:
            continue
        with _isolate_failure(member.job, trainer):
            member.tenant.advance(loss, gradients)
            if member.tenant.done:
                _finish(member, trainer)
            else:
                going.append(member)
    return going


def _finish(member: Member, trainer: Trainer) -> None:
    tenant, job, base = member.tenant, member.job, trainer.base
    lora, error = tenant.finish(trainer.max_rank)
    tenant.close()
    if not (trainer.leads or base.sharded):
        return
    if trainer.leads:
        _report_progress(member, trainer)
    asked = gather(job, trainer.catalog, trainer.store, _encode(job, trainer))
    served, rounding = base.served
    scores = examine(served, lora, member.start, asked, max(error, rounding))
    if scores.conversion_error:
        scores = scores.model_copy(update={"trained": score(base, tenant.acting, asked.new)})
    if member.contrasts is not None:
        scores = scores.model_copy(update={"margins": margins(served, member.start, lora, member.contrasts)})
    if not trainer.leads:
        return
    candidate = Candidate(
        weights=adapter_file.weights_bytes(lora),
        config=adapter_file.config_bytes(lora, job.base),
        memory=memory.to_bytes(tenant.strategy.remember(lora)),
        scores=scores,
    )
    checkpoint.save_candidate(trainer.store, job.id, candidate)
    _hand_over(job, trainer)


def _hand_over(job: Consolidation, trainer: Trainer) -> None:
    if trainer.leads:
        trainer.catalog.hand_over(job.id, trainer.owner, ConsolidationState.EVALUATING)


def _save(members: Iterable[Member], trainer: Trainer) -> None:
    if not trainer.leads:
        return
    for member in members:
        tenant = member.tenant
        if tenant.loss is not None:
            with _isolate_failure(member.job, trainer):
                state = Checkpoint(step=tenant.step, loss=tenant.loss)
                if checkpoint.save_state(trainer.store, member.job.id, state, tenant.state_bytes()):
                    _report_progress(member, trainer, saved=True)


def _report(members: Sequence[Member], trainer: Trainer) -> list[Member]:
    """Write the members' progress; return those that are ours no more."""
    lost: set[str] = set()
    if trainer.leads:
        for member in members:
            try:
                _report_progress(member, trainer)
            except Conflict:
                lost.add(member.job.id)
    lost = _broadcast_from_rank0(lost)
    gone = [member for member in members if member.job.id in lost]
    for member in gone:
        member.tenant.close()
    return gone


def _report_progress(member: Member, trainer: Trainer, *, saved: bool = False) -> None:
    tenant = member.tenant
    progress = TrainingProgress(step=tenant.step, steps=tenant.steps, loss=tenant.loss)
    trainer.catalog.progress(member.job.id, trainer.owner, progress, saved=saved)


def _broadcast_from_rank0(value: T) -> T:
    """The first worker's ``value``, in every worker."""
    if dist.get_world_size() == 1:
        return value
    shared = [value]
    dist.broadcast_object_list(shared, src=0)
    return shared[0]
