"""What happens after a member's last step: export the adapter, score it and hand the candidate over to the gate.

Called by the trainer, on all ranks.
"""

from functools import partial

from looper.jobs.consolidation.adapters import adapter_file
from looper.jobs.consolidation.adapters.lora import Lora
from looper.jobs.consolidation.data.preference import measure_margins
from looper.jobs.consolidation.evaluation.candidate_scores import evaluate_candidate, score_adapter
from looper.jobs.consolidation.evaluation.heldout import HeldOutQuestions, gather_heldout
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.strategies import strategy_state
from looper.jobs.consolidation.training import checkpoint
from looper.jobs.consolidation.training.checkpoint import Candidate
from looper.jobs.consolidation.training.cohort import Member, report_progress
from looper.jobs.consolidation.training.collective import run_on_rank0
from looper.jobs.consolidation.training.trainer_context import TrainerContext
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.states import ConsolidationState


def finish(member: Member, trainer: TrainerContext) -> None:
    """Store the candidate of a trained member and hand its consolidation over to the gate.

    Args:
        member: A member whose last step is taken. Its session is closed.
        trainer: The trainer.

    Raises:
        InvalidInput: On all ranks, if no held-out example of the consolidation could be encoded.
        LooperError: On all ranks; a Conflict if the consolidation was cancelled or another trainer holds it by now.
        UnexpectedError: On all ranks, if rank 0 failed for another reason.
    """
    lora, conversion_error = member.session.export_adapter(trainer.max_rank)
    member.session.close()

    def read_heldout() -> tuple[HeldOutQuestions, dict[str, int]]:
        report_progress(member, trainer)
        return gather_heldout(member.job, trainer.catalog, trainer.store, trainer.base.revision)

    heldout, left_out = run_on_rank0(read_heldout)
    make_candidate = partial(_make_candidate, member, lora, conversion_error, heldout, left_out, trainer.base)
    if trainer.base.is_sharded:  # then all ranks take part in every computation, including that of the strategy
        candidate = make_candidate()
        run_on_rank0(lambda: _hand_over(member.job, candidate, trainer))
    else:
        run_on_rank0(lambda: _hand_over(member.job, make_candidate(), trainer))


def _make_candidate(
    member: Member,
    lora: Lora,
    conversion_error: float,
    heldout: HeldOutQuestions,
    left_out: dict[str, int],
    base: SharedBase,
) -> Candidate:
    """Score the exported adapter ``lora``, and collect the strategy's state for the next session."""
    session = member.session
    serving_base, quantization_error = base.serving_base
    error = max(conversion_error, quantization_error)
    scores, marks = evaluate_candidate(serving_base, lora, member.start, heldout, error)
    scores = scores.model_copy(update={"left_out": left_out or None, "skipped_steps": session.skipped_steps})
    if scores.conversion_error:
        scores = scores.model_copy(update={"trained": score_adapter(base, session.active_adapter, heldout.new)})
    if member.pairs is not None:
        scores = scores.model_copy(update={"margins": measure_margins(serving_base, member.start, lora, member.pairs)})
    return Candidate(
        weights=adapter_file.serialize_weights(lora),
        config=adapter_file.serialize_config(lora, member.job.base),
        strategy_state=strategy_state.serialize_strategy_state(session.strategy.remember(lora)),
        scores=scores,
        marks=marks.model_dump_json().encode(),
    )


def _hand_over(job: Consolidation, candidate: Candidate, trainer: TrainerContext) -> None:
    checkpoint.save_candidate(trainer.store, job.id, candidate)
    trainer.catalog.hand_over(job.id, trainer.owner, ConsolidationState.EVALUATING)
