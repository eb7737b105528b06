"""Evaluate a candidate: all the numbers on which the gate decides. It needs forward passes only.

The trainer calls it when a member has taken its last step. ``jobs/gate.py`` turns the numbers into a verdict.
"""

import math
from collections.abc import Iterator, Sequence

from looper.jobs.consolidation.adapters.lora import Lora
from looper.jobs.consolidation.adapters.peft_layers import ActiveAdapter
from looper.jobs.consolidation.data.window_table import ExampleWindow
from looper.jobs.consolidation.evaluation.call_prefix import CallPrefix, is_invalid_call, is_repeated_call
from looper.jobs.consolidation.evaluation.heldout import HeldOutQuestions
from looper.jobs.consolidation.evaluation.teacher_forcing import WindowEvaluation, evaluate_windows
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.scores import CandidateScores, Comparison, Scores


def evaluate_candidate(
    base: SharedBase, candidate: Lora, start: Lora | None, asked: HeldOutQuestions, conversion_error: float
) -> CandidateScores:
    """Evaluate a candidate on its held-out tasks.

    Args:
        base: The shared base model.
        candidate: The trained adapter, as it would be served.
        start: The version that training started from; None for the bare base.
        asked: The held-out tasks.
        conversion_error: Relative error of the conversion to plain LoRA of the served rank.

    Returns:
        All scores for the gate.

    Raises:
        InvalidInput: If a loss is not finite.
    """

    def compare(heldout: list[ExampleWindow], reference: Lora | None) -> Comparison | None:
        if not heldout:
            return None
        return Comparison(
            candidate=score_adapter(base, candidate, heldout), reference=score_adapter(base, reference, heldout)
        )

    assert asked.new, "nothing is held out"
    answers, before = _evaluate(base, candidate, asked.new), _evaluate(base, start, asked.new)
    bare = before if start is None else _evaluate(base, None, asked.new[:1])
    return CandidateScores(
        candidate=_to_scores(base, answers, asked.new),
        current=_to_scores(base, before, asked.new),
        earlier=compare(asked.earlier, start),
        # Compared with the bare base: against the previous version, many small losses could add up to a collapse.
        control=compare(asked.control, None),
        canary=_canary(answers[0], bare[0]),
        conversion_error=conversion_error,
    )


def score_adapter(base: SharedBase, lora: ActiveAdapter | None, heldout: Sequence[ExampleWindow]) -> Scores:
    """Score an adapter on held-out windows.

    Args:
        base: The shared base model.
        lora: The adapter; None for the bare base.
        heldout: The windows.

    Returns:
        The scores over all windows.

    Raises:
        InvalidInput: If the loss is not finite, because training diverged.
    """
    return _to_scores(base, _evaluate(base, lora, heldout), heldout)


def _evaluate(base: SharedBase, lora: ActiveAdapter | None, heldout: Sequence[ExampleWindow]) -> list[WindowEvaluation]:
    return evaluate_windows(base, lora, [each.window for each in heldout])


def _to_scores(base: SharedBase, judged: Sequence[WindowEvaluation], heldout: Sequence[ExampleWindow]) -> Scores:
    windows = [each.window for each in heldout]
    loss = sum(each.loss for each in judged) / sum(window.total_weight for window in windows)
    if not math.isfinite(loss):
        raise InvalidInput(f"the held-out loss of the candidate is {loss}: lower the recipe's learning_rate")
    right = [call for each in judged for call in each.right]
    calls = [call for each, asked in zip(judged, heldout, strict=True) for call in _calls(base, each, asked)]
    return Scores(
        accuracy=_share(right),
        loss=loss,
        actions=len(right),
        tokens=sum(window.targets for window in windows),
        loops=_share([is_repeated_call(call) for call in calls]),
        tool_errors=_share([broken for call in calls if (broken := is_invalid_call(call)) is not None]),
    )


def _share(found: Sequence[bool]) -> float | None:
    return sum(found) / len(found) if found else None


def _calls(base: SharedBase, judged: WindowEvaluation, heldout: ExampleWindow) -> Iterator[CallPrefix]:
    before = None
    for said, (start, end) in zip(judged.said, heldout.window.calls, strict=True):
        true = _text(base, heldout.window.tokens[start:end].tolist())
        yield CallPrefix(_text(base, said), true, before, heldout.tools)
        before = true


def _text(base: SharedBase, tokens: Sequence[int]) -> str:
    """Decode ``tokens``. A special token at the end, such as the end of turn, becomes a NUL, which no JSON may hold."""
    special = tokens[-1] in base.tokenizer.all_special_ids
    text = str(base.tokenizer.decode(tokens[:-1] if special else tokens))
    return text + "\0" if special else text


def _canary(candidate: WindowEvaluation, bare: WindowEvaluation) -> float:
    """Return ||z' - z|| / ||z|| for the first answer's first logits: z' of the candidate, z of the bare base."""
    return float((candidate.opening - bare.opening).norm() / bare.opening.norm())
