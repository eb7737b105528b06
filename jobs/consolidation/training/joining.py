"""How a consolidation joins a trainer: read its inputs and resume from its newest checkpoint.

Called by the trainer for each claimed consolidation. All ranks come to the same outcome, even if the job is cancelled
meanwhile or only one rank cannot read an object.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from safetensors import SafetensorError

from looper.jobs.consolidation.adapters import adapter_file
from looper.jobs.consolidation.adapters.lora import Lora
from looper.jobs.consolidation.data.preference import EncodedPairs, pairs_of
from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.data.window_table import WindowTable, read_windows
from looper.jobs.consolidation.strategies import strategy, strategy_state
from looper.jobs.consolidation.training import checkpoint
from looper.jobs.consolidation.training.cohort import Member, report_progress
from looper.jobs.consolidation.training.collective import run_on_all_ranks, run_on_rank0
from looper.jobs.consolidation.training.session import TrainingSession
from looper.jobs.consolidation.training.session_setup import start_session
from looper.jobs.consolidation.training.trainer_context import TrainerContext
from looper.platform import adapters
from looper.platform.adapters import AdapterFiles, starts
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.errors import InvalidInput, LooperError, NotFound
from looper.platform.domain.states import ConsolidationState
from looper.platform.objectstore import keys

log = logging.getLogger(__name__)

MAX_REASONS = 5
"""Maximum number of events about turns that are left out."""


def join(job: Consolidation, trainer: TrainerContext) -> Member | None:
    """Make ``job`` a member, on all ranks.

    Args:
        job: A consolidation that this trainer has leased.
        trainer: The trainer.

    Returns:
        The new member, or None if ``job`` was trained already and only waits for its verdict.

    Raises:
        LooperError: On all ranks; a Conflict if ``job`` was cancelled or another trainer holds it by now.
        UnexpectedError: On all ranks, if a rank could not read the inputs for another reason.
    """
    if run_on_rank0(lambda: _hand_over_candidate(job, trainer)):
        return None
    beginning = run_on_rank0(lambda: _choose_beginning(job, trainer))
    inputs = run_on_all_ranks(lambda: _read_inputs(job, beginning, trainer))
    start = partial(
        start_session,
        trainer.base,
        job.recipe,
        inputs.windows,
        inputs.start,
        inputs.past,
        inputs.pairs.usable if inputs.pairs else (),
        once=inputs.once,
        beginning=inputs.beginning,
    )
    session = _start_or_resume(job, trainer, start)
    member = Member(job, session, inputs.start, inputs.pairs, left_out=sum(inputs.left_out.values()))
    try:
        trainer.limits.check_size(session)
        run_on_rank0(partial(_report_joined, member, inputs.left_out, trainer))
    except LooperError:
        member.session.close()
        raise
    return member


def _report_joined(member: Member, left_out: Mapping[str, int], trainer: TrainerContext) -> None:
    """Write the member's progress, and once per consolidation what is left out."""
    report_progress(member, trainer)
    if member.job.progress is None:
        for reason, count in Counter(left_out).most_common(MAX_REASONS):
            what = f"turns left out: {count}, because the base model cannot be taught them: {reason}"
            trainer.catalog.record_event(member.job.id, trainer.owner, what)


def _hand_over_candidate(job: Consolidation, trainer: TrainerContext) -> bool:
    """Hand ``job`` over to the gate if it has a candidate. Return whether it had one."""
    if not checkpoint.has_candidate(trainer.store, job.id):
        return False
    trainer.catalog.hand_over(job.id, trainer.owner, ConsolidationState.EVALUATING)
    return True


@dataclass(frozen=True)
class _Inputs:
    """The inputs of a consolidation. Each rank reads them itself."""

    start: Lora | None
    """The version that it continues; None in an instance's first session."""
    beginning: Lora | None
    """The recipe's start, from which a first session begins."""
    past: strategy.StrategyState
    windows: list[Window]
    """Windows of the examples as they were recorded. Each epoch takes them."""
    once: list[Window]
    """Windows of the examples in other contexts. One epoch takes each."""
    left_out: Mapping[str, int]
    """Number of turns that the base model cannot be taught, by reason."""
    pairs: EncodedPairs | None


def _choose_beginning(job: Consolidation, trainer: TrainerContext) -> starts.Start | None:
    """Return the start from which the first session of an instance begins; None without one, and in later sessions.

    The choice is written down. So a resumed training has the same start, also when an operator has replaced it.
    """
    name, store = job.recipe.start, trainer.store
    if name is None or job.start is not None:
        return None
    if digest := checkpoint.find_kept_start(store, job.id):
        return starts.load_start(store, trainer.base.revision, name, digest)
    start = starts.find_start(store, job.recipe, job.base, trainer.base.revision)
    checkpoint.keep_start(store, job.id, start.digest)
    return start


def _read_inputs(job: Consolidation, beginning: starts.Start | None, trainer: TrainerContext) -> _Inputs:
    training = _read_windows(job, "train.windows.parquet", trainer)
    training.require("training examples")
    return _Inputs(
        start=None if job.start is None else _read_version(job, job.start, trainer),
        beginning=None if beginning is None else _read_lora(starts.fetch_start(trainer.store, beginning), trainer),
        past=strategy_state.load_strategy_state(trainer.store, job.instance, job.start),
        windows=training.recorded,
        once=training.rendered,
        left_out=training.left_out,
        pairs=pairs_of(_read_windows(job, "pairs.windows.parquet", trainer)) if job.recipe.preference_weight else None,
    )


def _start_or_resume(
    job: Consolidation, trainer: TrainerContext, start: Callable[[], TrainingSession]
) -> TrainingSession:
    """Resume from the newest checkpoint that all ranks can read, or start anew. The trained adapter is the same."""
    for step in run_on_rank0(lambda: checkpoint.list_checkpoint_steps(trainer.store, job.id)):
        session = start()
        try:
            run_on_all_ranks(partial(_resume, session, job, step, trainer))
        except (NotFound, InvalidInput) as error:
            session.close()
            run_on_rank0(partial(_discard_checkpoint, job, step, str(error), trainer))
        else:
            return session
    return start()


def _resume(session: TrainingSession, job: Consolidation, step: int, trainer: TrainerContext) -> None:
    """Load a checkpoint. Raises NotFound or InvalidInput if it is damaged or from an incompatible version of Looper."""
    try:
        saved, state = checkpoint.load_checkpoint(trainer.store, job.id, step)
        session.resume(saved.step, saved.loss, state)
    except (ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InvalidInput(str(error)) from error


def _discard_checkpoint(job: Consolidation, step: int, error: str, trainer: TrainerContext) -> None:
    """Delete a checkpoint that cannot be read, and record that in the job's events."""
    log.warning("consolidation %s: the checkpoint of step %s cannot be read: %s", job.id, step, error)
    what = f"the checkpoint of step {step} cannot be read: training resumes from an older one or starts again"
    trainer.catalog.record_event(job.id, trainer.owner, what)
    checkpoint.delete_checkpoint(trainer.store, job.id, step)


def _read_version(job: Consolidation, digest: str, trainer: TrainerContext) -> Lora:
    """Read the version that ``job`` starts from."""
    files = adapters.fetch(trainer.store, job.instance.tenant, digest)
    base_revision = files.read_manifest().base_revision
    if base_revision != trainer.base.revision:
        raise InvalidInput(
            f"{job.instance} cannot start from its current version {digest}: it was trained on base revision "
            f"{base_revision}, and the base model is now at revision {trainer.base.revision}: roll back to a version "
            f"of this base revision, or move it: looper move {job.instance} --base {job.base}"
        )
    return _read_lora(files, trainer)


def _read_lora(files: AdapterFiles, trainer: TrainerContext) -> Lora:
    lora = adapter_file.read_adapter_files(files.weights, files.config)
    return {layer: factors.float().to(trainer.base.device) for layer, factors in lora.items()}


def _read_windows(job: Consolidation, name: str, trainer: TrainerContext) -> WindowTable:
    content = trainer.store.get(keys.examples(job.id, name))
    trainer.progress.advance()
    return read_windows(content, trainer.base.revision)
