"""How a consolidation joins a trainer: its inputs are read, and it resumes from its newest checkpoint.

All ranks come to the same outcome, also where the job is cancelled meanwhile or one rank alone cannot read an object.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from safetensors import SafetensorError

from looper.jobs.consolidation import adapter_file, checkpoint, memory
from looper.jobs.consolidation.cohort import Member, Trainer, report_progress
from looper.jobs.consolidation.collective import run_on_all_ranks, run_on_rank0
from looper.jobs.consolidation.encode import Window, encode
from looper.jobs.consolidation.lora import Lora
from looper.jobs.consolidation.preference import Contrasts, contrasts
from looper.jobs.consolidation.session import begin
from looper.jobs.consolidation.strategies import strategy
from looper.jobs.consolidation.tenant import Tenant
from looper.jobs.synthesis.table import read_examples, read_pairs
from looper.platform import adapters
from looper.platform.domain.consolidation import Consolidation, State
from looper.platform.domain.errors import InvalidInput, LooperError, NotFound
from looper.platform.domain.example import Example
from looper.platform.objectstore import keys

log = logging.getLogger(__name__)


def join(job: Consolidation, trainer: Trainer) -> Member | None:
    """Get ``job`` ready to step, on all ranks.

    Returns:
        The new member, or None if ``job`` was trained already and only waits for its verdict.

    Raises:
        LooperError: On all ranks: a Conflict if ``job`` was cancelled or another trainer holds it by now.
        UnexpectedError: On all ranks, if one could not read the inputs for a reason that Looper does not know.
    """
    if run_on_rank0(lambda: _handed_over(job, trainer)):
        return None
    inputs = run_on_all_ranks(lambda: _inputs(job, trainer))
    pairs = inputs.contrasts.usable if inputs.contrasts else ()
    begun = partial(begin, trainer.base, job.recipe, inputs.windows, inputs.start, inputs.past, pairs)
    member = Member(job, _resumed(job, trainer, begun), inputs.start, inputs.contrasts)
    try:
        run_on_rank0(lambda: report_progress(member, trainer))
    except LooperError:
        member.tenant.close()
        raise
    return member


def _handed_over(job: Consolidation, trainer: Trainer) -> bool:
    """Hand ``job`` over if it has a candidate; return whether it had."""
    if not checkpoint.has_candidate(trainer.store, job.id):
        return False
    trainer.catalog.hand_over(job.id, trainer.owner, State.EVALUATING)
    return True


@dataclass(frozen=True)
class _Inputs:
    """The inputs of a consolidation. Each rank reads them for itself."""

    start: Lora | None
    past: strategy.State
    windows: list[Window]
    contrasts: Contrasts | None


def _inputs(job: Consolidation, trainer: Trainer) -> _Inputs:
    return _Inputs(
        start=None if job.parent is None else _version(job, job.parent, trainer),
        past=memory.recall(trainer.store, job.instance, job.parent),
        windows=_windows(job, trainer),
        contrasts=_contrasts(job, trainer) if job.recipe.preference else None,
    )


def _resumed(job: Consolidation, trainer: Trainer, begun: Callable[[], Tenant]) -> Tenant:
    """At the newest checkpoint that all ranks can read, or at the beginning: training comes to the same."""
    for step in run_on_rank0(lambda: checkpoint.saved_steps(trainer.store, job.id)):
        tenant = begun()
        try:
            run_on_all_ranks(partial(_resume, tenant, job, step, trainer))
        except (NotFound, InvalidInput) as error:
            tenant.close()
            run_on_rank0(partial(_give_up, job, step, str(error), trainer))
        else:
            return tenant
    return begun()


def _resume(tenant: Tenant, job: Consolidation, step: int, trainer: Trainer) -> None:
    """Raises NotFound or InvalidInput if the checkpoint is torn, or of another Looper."""
    try:
        saved, tensors = checkpoint.state(trainer.store, job.id, step)
        tenant.resume(saved.step, saved.loss, tensors)
    except (ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InvalidInput(str(error)) from error


def _give_up(job: Consolidation, step: int, error: str, trainer: Trainer) -> None:
    """Remove a checkpoint that cannot be read, and say so in the job's events."""
    log.warning("consolidation %s: checkpoint of step %s: %s", job.id, step, error)
    what = f"the checkpoint of step {step} cannot be read: training goes on from an older one or begins anew"
    trainer.catalog.note(job.id, trainer.owner, what)
    checkpoint.drop_state(trainer.store, job.id, step)


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
    windows = encoder(job, trainer)
    return [window for example in examples for window in windows(example)]


def _contrasts(job: Consolidation, trainer: Trainer) -> Contrasts:
    """To prefer the one turn of to the other."""
    pairs = read_pairs(trainer.store.get(keys.examples(job.id, "pairs.parquet")))
    return contrasts(pairs, trainer.base.tokenizer, job.recipe.max_context)


def encoder(job: Consolidation, trainer: Trainer) -> Callable[[Example], list[Window]]:
    """Returns the function that cuts an example into windows of at most the recipe's ``max_context`` tokens."""
    return partial(encode, tokenizer=trainer.base.tokenizer, max_context=job.recipe.max_context)
