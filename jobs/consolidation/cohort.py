"""Trains the consolidations of a cohort side by side on one base model, each as if it were alone.

Runs in every worker of a training run. The first worker writes to catalog and store; the others only compute. Where
the strategies of continual learning come in is told in docs/guides/add-a-strategy.md.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

import torch.distributed as dist

from looper.jobs.consolidation import checkpoint
from looper.jobs.consolidation.checkpoint import Candidate, CandidateScores, Checkpoint
from looper.jobs.consolidation.encode import Window, encode
from looper.jobs.consolidation.evaluate import sample, score
from looper.jobs.consolidation.shared_base import Adapter, SharedBase
from looper.jobs.consolidation.tenant import Tenant
from looper.jobs.synthesis.table import read_examples
from looper.platform import adapters
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation, Progress, Scores, State
from looper.platform.domain.errors import Conflict, InvalidInput, LooperError, StoreUnavailable
from looper.platform.objectstore import ObjectStore, keys

T = TypeVar("T")

REPORT_S = 1.0
"""Between two reports of progress. Each is also how a training learns that it was cancelled or taken over."""


@dataclass(frozen=True)
class Trainer:
    """What the members of a cohort share: one base in memory, catalog and store, and the name that holds the claims."""

    base: SharedBase
    catalog: Catalog
    store: ObjectStore
    owner: str

    @property
    def leads(self) -> bool:
        return dist.get_rank() == 0


@dataclass(frozen=True)
class Member:
    """A consolidation in training."""

    job: Consolidation
    adapter: Adapter
    tenant: Tenant
    holdout: list[Window]
    current: Scores


def train_cohort(
    cohort: Iterable[Consolidation], trainer: Trainer, checkpoint_s: float, clock: Callable[[], float] = time.monotonic
) -> None:
    """Train all of ``cohort`` and leave a candidate of each in the store.

    A member that cannot be trained is failed in the catalog with its reason, and one that was cancelled or is another's
    by now is dropped; the others do not notice. What was begun before is gone on with. Raises StoreUnavailable when
    store or catalog fail, which is nobody's fault: the run may be repeated.
    """
    members: list[Member] = []
    for job in cohort:
        if not checkpoint.has_candidate(trainer.store, job.id):
            with _blame(job, trainer):
                members.append(_join(job, trainer))
    reported = saved = clock()
    members = _report(members, trainer)
    while members:
        going: list[Member] = []
        for member in members:
            with _blame(member.job, trainer):
                if not member.tenant.done:
                    member.tenant.advance()
                if member.tenant.done:
                    _finish(member, trainer)
                else:
                    going.append(member)
        members = going
        if clock() - saved >= checkpoint_s:
            _save(members, trainer)
            saved = clock()
        # Only the first worker's clock and catalog count, so that all drop the same members after the same step.
        if _agreed(clock() - reported >= REPORT_S):
            members = _report(members, trainer)
            reported = clock()


@contextmanager
def _blame(job: Consolidation, trainer: Trainer) -> Iterator[None]:
    """What goes wrong inside fails ``job`` only, unless it is the store's or the catalog's fault."""
    try:
        yield
    except StoreUnavailable:
        raise
    except Conflict:
        pass  # cancelled, or another's by now: nothing of it is ours to write
    except LooperError as error:
        if trainer.leads:
            with suppress(Conflict):
                trainer.catalog.fail(job.id, trainer.owner, str(error))


def _join(job: Consolidation, trainer: Trainer) -> Member:
    adapter = trainer.base.add(job.id, job.recipe)
    if job.parent is not None:
        adapter.load_bytes(_parent_weights(job, job.parent, trainer))
    train, holdout = (_windows(job, part, trainer) for part in ("train.parquet", "holdout.parquet"))
    holdout = sample(holdout)
    current = checkpoint.current(trainer.store, job.id)
    if current is None:  # before the first step, the adapter is the current version, or the bare base
        current = score(adapter, holdout)
        if trainer.leads:
            checkpoint.save_current(trainer.store, job.id, current)
    tenant = Tenant(adapter, job.recipe, train)
    newest = checkpoint.newest_state(trainer.store, job.id)
    if newest is not None:
        state, tensors = newest
        tenant.resume(state.step, state.loss, tensors)
    return Member(job, adapter, tenant, holdout, current)


def _parent_weights(job: Consolidation, parent: str, trainer: Trainer) -> bytes:
    files = adapters.fetch(trainer.store, job.instance.tenant, parent)
    manifest = files.read_manifest()
    theirs = (manifest.base_revision, manifest.recipe.rank, manifest.recipe.alpha)
    ours = (trainer.base.revision, job.recipe.rank, job.recipe.alpha)
    if theirs != ours:
        raise InvalidInput(
            f"{job.instance} cannot go on from its current version {parent}: base revision, rank and alpha are {ours} "
            f"now and were {theirs}; consolidate with those, or roll back to a version that fits"
        )
    return files.weights


def _windows(job: Consolidation, part: str, trainer: Trainer) -> list[Window]:
    examples = read_examples(trainer.store.get(keys.examples(job.id, part)))
    return [
        window for example in examples for window in encode(example, trainer.base.tokenizer, job.recipe.max_context)
    ]


def _finish(member: Member, trainer: Trainer) -> None:
    if not trainer.leads:
        return
    id = member.job.id
    _tell(member, trainer)
    trainer.catalog.advance(id, trainer.owner, State.EVALUATING)
    scores = CandidateScores(candidate=score(member.adapter, member.holdout), current=member.current)
    config = member.adapter.config_bytes(member.job.base)
    checkpoint.save_candidate(trainer.store, id, Candidate(member.adapter.to_bytes(), config, scores))


def _save(members: Iterable[Member], trainer: Trainer) -> None:
    if not trainer.leads:
        return
    for member in members:
        tenant = member.tenant
        if tenant.loss is not None:
            state = Checkpoint(step=tenant.step, loss=tenant.loss)
            checkpoint.save_state(trainer.store, member.job.id, state, tenant.state_bytes())


def _report(members: Sequence[Member], trainer: Trainer) -> list[Member]:
    """Write the members' progress; return those that are still ours."""
    lost: set[str] = set()
    if trainer.leads:
        for member in members:
            try:
                _tell(member, trainer)
            except Conflict:
                lost.add(member.job.id)
    lost = _agreed(lost)
    return [member for member in members if member.job.id not in lost]


def _tell(member: Member, trainer: Trainer) -> None:
    tenant = member.tenant
    progress = Progress(step=tenant.step, steps=tenant.steps, loss=tenant.loss)
    trainer.catalog.progress(member.job.id, trainer.owner, progress)


def _agreed(value: T) -> T:
    """The first worker's ``value``, in every worker."""
    if dist.get_world_size() == 1:
        return value
    shared = [value]
    dist.broadcast_object_list(shared, src=0)
    return shared[0]
