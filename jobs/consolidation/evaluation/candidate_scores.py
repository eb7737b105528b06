"""The examination of a candidate: all the numbers on which the gate decides. Forward passes only."""

import math
from collections.abc import Iterator, Sequence

from looper.jobs.consolidation.adapters.lora import Lora
from looper.jobs.consolidation.adapters.peft_layers import Acting
from looper.jobs.consolidation.evaluation.call_prefix import CallPrefix, is_invalid_call, is_repeated_call
from looper.jobs.consolidation.evaluation.heldout import HeldOut, HeldOutQuestions
from looper.jobs.consolidation.evaluation.teacher_forcing import Judged, judge_each
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.platform.domain.consolidation import CandidateScores, Comparison, Scores
from looper.platform.domain.errors import InvalidInput


def examine(
    base: SharedBase, candidate: Lora, start: Lora | None, asked: HeldOutQuestions, conversion_error: float
) -> CandidateScores:
    """The numbers of ``candidate``, which was trained from ``start`` or from the bare base.

    Raises InvalidInput if a loss is no number.
    """

    def compare(heldout: list[HeldOut], reference: Lora | None) -> Comparison | None:
        if not heldout:
            return None
        return Comparison(candidate=score(base, candidate, heldout), reference=score(base, reference, heldout))

    assert asked.new, "nothing is held out"
    answers, before = _judged(base, candidate, asked.new), _judged(base, start, asked.new)
    bare = before if start is None else _judged(base, None, asked.new[:1])
    return CandidateScores(
        candidate=_scores(base, answers, asked.new),
        current=_scores(base, before, asked.new),
        earlier=compare(asked.earlier, start),
        # Not against the version before: then many small steps could come to a collapse that none of them shows.
        control=compare(asked.control, None),
        canary=_canary(answers[0], bare[0]),
        conversion_error=conversion_error,
    )


def score(base: SharedBase, lora: Acting | None, heldout: Sequence[HeldOut]) -> Scores:
    """The scores of an adapter, or of the bare base, on ``heldout``.

    Raises InvalidInput if the loss is no number: such an adapter has been trained to pieces.
    """
    return _scores(base, _judged(base, lora, heldout), heldout)


def _judged(base: SharedBase, lora: Acting | None, heldout: Sequence[HeldOut]) -> list[Judged]:
    return judge_each(base, lora, [each.window for each in heldout])


def _scores(base: SharedBase, judged: Sequence[Judged], heldout: Sequence[HeldOut]) -> Scores:
    windows = [each.window for each in heldout]
    loss = sum(each.loss for each in judged) / sum(sum(window.weights) for window in windows)
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


def _calls(base: SharedBase, judged: Judged, heldout: HeldOut) -> Iterator[CallPrefix]:
    before = None
    for said, (start, end) in zip(judged.said, heldout.window.calls, strict=True):
        true = _text(base, heldout.window.tokens[start:end])
        yield CallPrefix(_text(base, said), true, before, heldout.tools)
        before = true


def _text(base: SharedBase, tokens: Sequence[int]) -> str:
    """With a character that no JSON may hold for a special token at the end, such as that which ends the turn."""
    special = tokens[-1] in base.tokenizer.all_special_ids
    text = str(base.tokenizer.decode(tokens[:-1] if special else tokens))
    return text + "\0" if special else text


def _canary(candidate: Judged, bare: Judged) -> float:
    """||z' - z|| / ||z|| of the logits z' of the candidate and z of the bare base, where the first answer begins."""
    return float((candidate.opening - bare.opening).norm() / bare.opening.norm())
