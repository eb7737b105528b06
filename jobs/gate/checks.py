"""The checks of the gate. Each compares numbers of the candidate with those of a reference and gives a finding.

``judge.py`` runs them in order. A comparison of counts has three outcomes: evidence for the candidate, evidence against
it, or too little of either (``paired_test.py``). Losses are compared only to find what no statistics excuse, and where
there are no actions.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple

from looper.jobs.gate.paired_test import compare_paired, to_steps
from looper.platform.domain.context_shares import describe_context
from looper.platform.domain.scores import (
    CandidateScores,
    Comparison,
    ContextResults,
    Evidence,
    ExactTasks,
    Scores,
    TaskCounts,
    TaskPair,
)
from looper.platform.settings import GateSettings

MAX_LOGIT_NOISE = 1e-4
"""Relative difference of logits that rounding can cause. A trained adapter changes them by a few percent or more."""

MIN_CONTEXT_ACTIONS = 5
"""Actions in a context of which some must be right. A good skill may get each of fewer wrong by chance."""

MIN_LOSS = 0.25
"""Loss in nats per token below which a multiple says nothing: the true token still has a probability of 0.78."""


class GateOutcome(IntEnum):
    """Result of a check. The highest one of all checks is the decision."""

    PASSED = 0
    UNDECIDED = 1
    REFUSED = 2


class Finding(NamedTuple):
    """Result of one check, with its reason."""

    outcome: GateOutcome
    """Whether the candidate passed."""
    text: str
    """What was measured, and unless it passed also the limit."""
    evidence: Evidence | None = None
    """The paired test, where there was one."""


def check_effect(change: float) -> Finding:
    """Refuse an adapter that does nothing.

    Args:
        change: Relative change of the logits on the canary prompt.

    Returns:
        The finding.
    """
    if change > MAX_LOGIT_NOISE:
        return Finding(GateOutcome.PASSED, f"moves the canary's logits by {change:.2%}")
    return Finding(
        GateOutcome.REFUSED,
        f"has no effect: moves the canary's logits by {change:.1e}, which is rounding (up to {MAX_LOGIT_NOISE})",
    )


def check_loss(tasks: str, candidate: float, reference: float, max_ratio: float) -> Finding:
    """Refuse a loss that is not finite or that has exploded, whatever the accuracy is.

    Args:
        tasks: What the tasks are called in the text.
        candidate: Loss of the candidate, in nats per token.
        reference: Loss before, on the same tasks.
        max_ratio: Largest multiple of the loss before, or of ``MIN_LOSS`` if that is more.

    Returns:
        The finding.
    """
    numbers = f"loss on {tasks} {candidate:.4f} against {reference:.4f} before"
    if not (math.isfinite(candidate) and math.isfinite(reference)):
        return Finding(GateOutcome.REFUSED, f"not finite: {numbers}")
    if candidate > max_ratio * max(reference, MIN_LOSS):
        allowed = f"{max_ratio:g} times that" + (f" or {max_ratio * MIN_LOSS:g}" if reference < MIN_LOSS else "")
        return Finding(GateOutcome.REFUSED, f"explodes: {numbers}: may be {allowed}")
    return Finding(GateOutcome.PASSED, numbers)


def check_new_tasks(scores: CandidateScores, exact: ExactTasks | None, limits: GateSettings) -> Finding:
    """Pass a candidate that is better on the held-out tasks of its session, and refuse one that is worse.

    Args:
        scores: All scores.
        exact: How many of these tasks are solved exactly; None without results by task.
        limits: Limits of the gate.

    Returns:
        The finding.
    """
    now, before, pairs = scores.candidate, scores.current, scores.new_tasks
    before_text = str(_right(before)) if now.actions else f"{before.loss:.4f}"
    numbers = f"{_share_or_loss(now)} on new tasks against {before_text} before"
    if pairs is None or exact is None:
        return _lacks_results_by_task(numbers)
    evidence = compare_paired(_differences(pairs), limits.false_pass_rate)
    tested = f"{numbers} ({_count_changes(evidence)}{_say_exact(exact)})"
    if evidence.p_worse <= limits.false_refusal_rate:
        chance = _chance(evidence.p_worse, limits.false_refusal_rate)
        return Finding(GateOutcome.REFUSED, f"worse: {tested}: {chance}", evidence)
    if now.actions and _right(now) < limits.min_right_actions:
        text = f"too few right actions: {tested}: at least {limits.min_right_actions} must be right"
        return Finding(GateOutcome.UNDECIDED, text, evidence)
    if not now.actions and now.loss > before.loss * (1 - limits.min_gain):
        return Finding(GateOutcome.UNDECIDED, f"{tested}: not lower by {limits.min_gain:.1%}", evidence)
    chance = _chance(evidence.p_better, limits.false_pass_rate)
    if evidence.p_better <= limits.false_pass_rate:
        return Finding(GateOutcome.PASSED, f"{tested}: {chance}", evidence)
    return Finding(GateOutcome.UNDECIDED, f"too little evidence: {tested}: {chance}; {_say_needed(evidence)}", evidence)


def count_exact_tasks(pairs: Sequence[TaskPair]) -> ExactTasks:
    """Count the tasks of which every tool call that was scored is right.

    Args:
        pairs: Results by task.

    Returns:
        The numbers of both sides, of the tasks with tool calls.
    """
    solved = [(_is_exact(pair.candidate), _is_exact(pair.reference)) for pair in pairs if pair.candidate.actions]
    return ExactTasks(
        tasks=len(solved),
        candidate=sum(now for now, _ in solved),
        reference=sum(before for _, before in solved),
        evidence=compare_paired([now - before for now, before in solved]),
    )


def summarize_context(pairs: Sequence[TaskPair]) -> ContextResults:
    """Sum up and test the results in one context.

    Args:
        pairs: Results on the new tasks in this context.

    Returns:
        What the verdict has, and what ``check_context`` decides on.
    """
    return ContextResults(
        candidate=TaskCounts.total([pair.candidate for pair in pairs]),
        reference=TaskCounts.total([pair.reference for pair in pairs]),
        exact=count_exact_tasks(pairs),
        evidence=compare_paired(_differences(pairs)),
    )


def check_context(context: str, results: ContextResults, count: int, limits: GateSettings) -> Finding:
    """Refuse a candidate that is worse in one context, such as beside notes, whatever it is over all of them.

    The contexts are several chances to refuse, so they share the rate of false refusals: each has ``1 / count`` of it
    (Bonferroni; Holm's step-down test refuses the same candidates, because one refusal is enough and the smallest
    probability comes first). Altogether they refuse a candidate that is no worse in any with at most that rate.

    Args:
        context: Name of the context.
        results: Results on the new tasks in it.
        count: Number of contexts that were asked.
        limits: Limits of the gate.

    Returns:
        The finding.
    """
    now, before, where = results.candidate, results.reference, describe_context(context)
    fall = _measure_fall(now, before, f"on new tasks {where}", "before", limits)
    tested = f"{fall.numbers} ({_count_changes(results.evidence)}{_say_exact(results.exact)})"
    if not fall.is_allowed:
        text = f"{where}: {tested}: {fall.limit}"
        return _weigh("worse", "perhaps worse", text, results.evidence, limits.false_refusal_rate / count)
    if now.right < limits.min_right_actions and now.actions >= MIN_CONTEXT_ACTIONS:
        text = f"too few right actions {where}: {tested}: at least {limits.min_right_actions} must be right"
        return Finding(GateOutcome.UNDECIDED, text, results.evidence)
    return Finding(GateOutcome.PASSED, fall.numbers, results.evidence)


def check_forgetting(scores: CandidateScores, earlier: Comparison, limits: GateSettings) -> Finding:
    """Refuse a candidate that is worse on earlier sessions than the best versions of its lineage were.

    Args:
        scores: All scores.
        earlier: Those on the tasks of earlier sessions.
        limits: Limits of the gate.

    Returns:
        The finding.
    """
    pairs = scores.earlier_tasks
    if pairs is None:
        return _lacks_results_by_task(f"{_share_or_loss(earlier.candidate)} on earlier tasks")
    best = TaskCounts.total([pair.reference for pair in pairs])
    now = TaskCounts.total([pair.candidate for pair in pairs])
    evidence = compare_paired(_differences(pairs))
    fall = _measure_fall(now, best, "on earlier tasks", "of the best version", limits)
    if fall.is_allowed:
        return Finding(GateOutcome.PASSED, fall.numbers, evidence)
    text = f"{fall.numbers} ({_count_changes(evidence)}): {fall.limit}"
    return _weigh("forgets", "may forget", text, evidence, limits.false_refusal_rate)


def check_rates(
    tasks: str, comparison: Comparison, pairs: Sequence[TaskPair] | None, limits: GateSettings
) -> Iterator[Finding]:
    """Refuse a candidate that makes more repeated or more invalid calls.

    Args:
        tasks: What the tasks are called in the text.
        comparison: Scores of both on these tasks.
        pairs: Results by task.
        limits: Limits of the gate.

    Yields:
        The finding for each kind of call that was measured.
    """
    now, before = comparison.candidate, comparison.reference
    kinds: list[tuple[str, float, Callable[[Scores], float | None], Callable[[TaskCounts], int]]] = [
        ("repeated calls", limits.max_loops, lambda scores: scores.loops, lambda counts: counts.loops),
        ("invalid calls", limits.max_tool_errors, lambda scores: scores.tool_errors, lambda counts: counts.tool_errors),
    ]
    for kind, max_rise, rate_of, count in kinds:
        rate, rate_before = rate_of(now), rate_of(before)
        if rate is None or rate_before is None:
            continue
        numbers = f"{kind} in {tasks} {rate:.3f} against {rate_before:.3f} before"
        if _is_within(rate - rate_before, max_rise, now.actions):
            yield Finding(GateOutcome.PASSED, numbers)
        elif pairs is None:
            yield _lacks_results_by_task(f"more {numbers}")
        else:
            fewer = [count(pair.reference) - count(pair.candidate) for pair in pairs]
            evidence = compare_paired(fewer)
            text = f"{numbers} ({now.actions} actions): may be higher by {max_rise}"
            yield _weigh("more", "perhaps more", text, evidence, limits.false_refusal_rate)


def check_control(control: Comparison, max_ratio: float) -> Finding:
    """Refuse a collapse only: an adapter may be worse on tasks for which it was not trained.

    Args:
        control: Scores on tasks of the tenant's other instances. The reference is the base model.
        max_ratio: Largest multiple of the base model's loss.

    Returns:
        The finding.
    """
    now, base = control.candidate.loss, control.reference.loss
    numbers = f"loss on other instances' tasks {now:.4f} against the base model's {base:.4f}"
    if now <= base * max_ratio:
        return Finding(GateOutcome.PASSED, numbers)
    return Finding(GateOutcome.REFUSED, f"collapsed: {numbers}: may be {max_ratio} times that")


class _Fall(NamedTuple):
    """How much less right a candidate is than what it is compared with, in text."""

    numbers: str
    is_allowed: bool
    limit: str


def _measure_fall(now: TaskCounts, before: TaskCounts, where: str, whose: str, limits: GateSettings) -> _Fall:
    """Compare the shares of right actions, or the losses where there are no actions."""
    if now.actions:
        numbers = f"{now.right} of {now.actions} actions right {where} against {before.right} {whose}"
        is_allowed = _is_within((before.right - now.right) / now.actions, limits.max_forgetting, now.actions)
        return _Fall(numbers, is_allowed, f"may be lower by {limits.max_forgetting}")
    loss, loss_before = now.loss / now.weight, before.loss / before.weight
    numbers = f"loss {loss:.4f} {where} against {loss_before:.4f} {whose}"
    is_allowed = loss <= loss_before * (1 + limits.max_forgetting)
    return _Fall(numbers, is_allowed, f"may be higher by {limits.max_forgetting:.1%}")


def _weigh(surely: str, perhaps: str, text: str, evidence: Evidence, rate: float) -> Finding:
    """Refuse with evidence of worse; without it the check is undecided."""
    chance = _chance(evidence.p_worse, rate)
    if evidence.p_worse <= rate:
        return Finding(GateOutcome.REFUSED, f"{surely} {text}; {chance}", evidence)
    return Finding(GateOutcome.UNDECIDED, f"{perhaps} {text}; {chance}", evidence)


def _differences(pairs: Sequence[TaskPair]) -> list[int]:
    """Return how much better the candidate is on each task: in right actions, or in loss where no task has any."""
    if any(pair.candidate.actions for pair in pairs):
        return [pair.candidate.right - pair.reference.right for pair in pairs]
    return to_steps([pair.reference.loss - pair.candidate.loss for pair in pairs])


def _is_within(change: float, max_change: float, calls: int) -> bool:
    """Whether a share of ``calls`` changed by ``max_change`` at most, or by one call."""
    return change <= max(max_change, 1 / calls) + 1e-9


def _right(scores: Scores) -> int:
    return round((scores.accuracy or 0.0) * scores.actions)


def _share_or_loss(scores: Scores) -> str:
    return f"{_right(scores)} of {scores.actions} actions right" if scores.actions else f"loss {scores.loss:.4f}"


def _count_changes(evidence: Evidence) -> str:
    return f"better on {evidence.better} and worse on {evidence.worse} of {evidence.tasks} tasks"


def _is_exact(counts: TaskCounts) -> bool:
    return counts.right == counts.actions


def _say_exact(exact: ExactTasks) -> str:
    return f"; {exact.candidate} of {exact.tasks} tasks exactly right against {exact.reference}" if exact.tasks else ""


def _chance(probability: float, limit: float) -> str:
    return f"the probability of that by chance is {probability:.2g}, and evidence is at most {limit:g}"


def _say_needed(evidence: Evidence) -> str:
    if evidence.needed is None:
        return "more tasks would not show that it is better"
    more = max(1, evidence.needed - evidence.tasks)
    return f"at this effect about {more} more held-out tasks would suffice"


def _lacks_results_by_task(numbers: str) -> Finding:
    text = f"{numbers}: a trainer of an earlier release measured it, without the results by task that evidence needs"
    return Finding(GateOutcome.UNDECIDED, text)
