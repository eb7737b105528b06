"""Evaluate a candidate: all the numbers on which the gate decides. It needs forward passes only.

The trainer calls it when a member has taken its last step. ``jobs/gate/`` turns the numbers into a verdict.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from looper.jobs.consolidation.adapters.lora import Lora
from looper.jobs.consolidation.adapters.peft_layers import ActiveAdapter
from looper.jobs.consolidation.data.window_table import ExampleWindow
from looper.jobs.consolidation.evaluation.call_prefix import CallPrefix, is_invalid_call, is_repeated_call
from looper.jobs.consolidation.evaluation.heldout import HeldOutQuestions
from looper.jobs.consolidation.evaluation.high_water_marks import HighWaterMarks
from looper.jobs.consolidation.evaluation.teacher_forcing import WindowEvaluation, evaluate_windows
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.example import find_context
from looper.platform.domain.scores import CandidateScores, Comparison, Scores, TaskCounts, TaskPair


class CandidateEvaluation(NamedTuple):
    """Result of ``evaluate_candidate``."""

    scores: CandidateScores
    """All scores for the gate."""
    marks: HighWaterMarks
    """The best results of the lineage, the candidate included."""


def evaluate_candidate(
    base: SharedBase, candidate: Lora, start: Lora | None, asked: HeldOutQuestions, conversion_error: float
) -> CandidateEvaluation:
    """Evaluate a candidate on its held-out tasks.

    Args:
        base: The shared base model.
        candidate: The trained adapter, as it would be served.
        start: The version that training started from; None for the bare base.
        asked: The held-out tasks, and the best results of the lineage.
        conversion_error: Relative error of the conversion to plain LoRA of the served rank.

    Returns:
        All scores for the gate, and the best results with the candidate's.

    Raises:
        InvalidInput: If a loss is not finite.
    """
    assert asked.new, "nothing is held out"
    answers, answers_before = _evaluate(base, candidate, asked.new), _evaluate(base, start, asked.new)
    bare = answers_before if start is None else _evaluate(base, None, asked.new[:1])
    now, before = _count_calls(base, answers, asked.new), _count_calls(base, answers_before, asked.new)
    earlier = earlier_tasks = None
    marks = asked.marks
    if asked.earlier:
        marks = _fill_marks(base, start, asked)
        best = [marks.sessions[key.session][key.number] for key in asked.earlier_keys]
        earlier_now = _count_calls(base, _evaluate(base, candidate, asked.earlier), asked.earlier)
        earlier = Comparison(
            candidate=_to_scores(earlier_now, asked.earlier), reference=_to_scores(best, asked.earlier)
        )
        sessions = [key.session for key in asked.earlier_keys]
        earlier_tasks = _pair_by_task(asked.earlier, earlier_now, best, sessions)
        marks = marks.raise_to(dict(zip(asked.earlier_keys, earlier_now, strict=True)))
    scores = CandidateScores(
        candidate=_to_scores(now, asked.new),
        current=_to_scores(before, asked.new),
        earlier=earlier,
        # Compared with the bare base: against the previous version, many small losses could add up to a collapse.
        control=_compare_with_bare(base, candidate, asked.control),
        canary=_canary(answers[0], bare[0]),
        conversion_error=conversion_error,
        new_tasks=_pair_by_task(asked.new, now, before),
        earlier_tasks=earlier_tasks,
        new_tasks_by_context=_pair_by_context(asked.new, now, before),
    )
    return CandidateEvaluation(scores, marks.raise_to(dict(zip(asked.new_keys, now, strict=True))))


def _fill_marks(base: SharedBase, start: Lora | None, asked: HeldOutQuestions) -> HighWaterMarks:
    """Ask the version before what no version was asked, because its lineage began in a release that kept no marks."""
    unknown = [
        (key, heldout)
        for key, heldout in zip(asked.earlier_keys, asked.earlier, strict=True)
        if asked.marks.get(key) is None
    ]
    if not unknown:
        return asked.marks
    heldout = [each for _, each in unknown]
    results = _count_calls(base, _evaluate(base, start, heldout), heldout)
    return asked.marks.raise_to(dict(zip((key for key, _ in unknown), results, strict=True)))


def _compare_with_bare(base: SharedBase, candidate: Lora, heldout: list[ExampleWindow]) -> Comparison | None:
    if not heldout:
        return None
    return Comparison(candidate=score_adapter(base, candidate, heldout), reference=score_adapter(base, None, heldout))


def _pair_by_task(
    heldout: Sequence[ExampleWindow],
    now: Sequence[TaskCounts],
    before: Sequence[TaskCounts],
    sessions: Sequence[str] = (),
) -> tuple[TaskPair, ...]:
    """Add up the results on the windows of each task. In two sessions, a task of one name is two tasks."""
    places: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, each in enumerate(heldout):
        places[sessions[i] if sessions else "", each.task_id].append(i)
    return tuple(
        TaskPair(
            candidate=TaskCounts.total(now[i] for i in of_task),
            reference=TaskCounts.total(before[i] for i in of_task),
        )
        for of_task in places.values()
    )


def _pair_by_context(
    heldout: Sequence[ExampleWindow], now: Sequence[TaskCounts], before: Sequence[TaskCounts]
) -> dict[str, tuple[TaskPair, ...]] | None:
    """Add up the results on each task in each context; None if all windows are as they were recorded."""
    places: dict[str, list[int]] = defaultdict(list)
    for i, each in enumerate(heldout):
        places[find_context(each.example_id)].append(i)
    if not any(places):
        return None
    return {
        context: _pair_by_task([heldout[i] for i in of_it], [now[i] for i in of_it], [before[i] for i in of_it])
        for context, of_it in sorted(places.items())
    }


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
    return _to_scores(_count_calls(base, _evaluate(base, lora, heldout), heldout), heldout)


def _evaluate(base: SharedBase, lora: ActiveAdapter | None, heldout: Sequence[ExampleWindow]) -> list[WindowEvaluation]:
    return evaluate_windows(base, lora, [each.window for each in heldout])


def _count_calls(
    base: SharedBase, judged: Sequence[WindowEvaluation], heldout: Sequence[ExampleWindow]
) -> list[TaskCounts]:
    """Count for each window what the adapter did."""
    return [_count_window(base, each, asked) for each, asked in zip(judged, heldout, strict=True)]


def _count_window(base: SharedBase, judged: WindowEvaluation, heldout: ExampleWindow) -> TaskCounts:
    calls = list(_calls(base, judged, heldout))
    errors = [broken for call in calls if (broken := is_invalid_call(call)) is not None]
    return TaskCounts(
        actions=len(judged.right),
        right=sum(judged.right),
        loss=judged.loss,
        weight=heldout.window.total_weight,
        loops=sum(map(is_repeated_call, calls)),
        tool_errors=sum(errors),
        judged=len(errors),
    )


def _to_scores(counts: Sequence[TaskCounts], heldout: Sequence[ExampleWindow]) -> Scores:
    whole = TaskCounts.total(counts)
    loss = whole.loss / whole.weight
    if not math.isfinite(loss):
        raise InvalidInput(f"the held-out loss of the candidate is {loss}: lower the recipe's learning_rate")
    return Scores(
        accuracy=whole.right / whole.actions if whole.actions else None,
        loss=loss,
        actions=whole.actions,
        tokens=sum(each.window.targets for each in heldout),
        loops=whole.loops / whole.actions if whole.actions else None,
        tool_errors=whole.tool_errors / whole.judged if whole.judged else None,
    )


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
