"""The gate: decide whether a candidate may replace the version that is served now.

``looper.jobs.queue.publication`` calls it with the scores that the trainer has measured.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

from looper.platform.domain.scores import CandidateScores, Comparison, GateVerdict, Scores
from looper.platform.settings import GateSettings

MAX_LOGIT_NOISE = 1e-4
"""Relative difference of logits that rounding can cause. A trained adapter changes them by a few percent or more."""


class Finding(NamedTuple):
    """Result of one check."""

    passed: bool
    """Whether the candidate passed."""
    text: str
    """What was measured, and on failure also the limit."""


def judge_candidate(scores: CandidateScores, limits: GateSettings) -> GateVerdict:
    """Pass a candidate that is better on the new tasks and not worse on everything else.

    The checks, in order: it changes the logits at all; it is better on the held-out tasks of its own session; it has
    not forgotten the earlier sessions; it does not make more repeated or invalid calls; and it has not collapsed on
    other instances' tasks. A check without a measurement is left out.

    Args:
        scores: Scores of the candidate, and of the version that it started from.
        limits: Limits of the checks.

    Returns:
        The verdict. Its reason is the first failed check, or all passed ones.
    """
    findings = list(_check_all(scores, limits))
    failed = next((finding for finding in findings if not finding.passed), None)
    reason = failed.text if failed else "; ".join(finding.text for finding in findings)
    return GateVerdict(passed=failed is None, reason=reason, **dict(scores))


def _check_all(scores: CandidateScores, limits: GateSettings) -> Iterator[Finding]:
    if scores.canary is not None:
        yield _check_canary(scores.canary)
    yield _check_new_tasks(scores.candidate, scores.current, limits.min_gain)
    new = Comparison(candidate=scores.candidate, reference=scores.current)
    if scores.earlier is not None:
        yield _check_forgetting(scores.earlier, limits.max_forgetting)
    for tasks, comparison in (("new", new), ("earlier", scores.earlier)):
        if comparison is not None:
            now, before = comparison.candidate, comparison.reference
            yield from _check_rate(
                f"repeated calls in {tasks} tasks", now.loops, before.loops, limits.max_loops, now.actions
            )
            yield from _check_rate(
                f"invalid calls in {tasks} tasks",
                now.tool_errors,
                before.tool_errors,
                limits.max_tool_errors,
                now.actions,
            )
    if scores.control is not None:
        yield _check_control(scores.control, limits.max_control_loss)


def _check_canary(canary: float) -> Finding:
    if canary > MAX_LOGIT_NOISE:
        return Finding(True, f"moves the canary's logits by {canary:.2%}")
    return Finding(
        False,
        f"has no effect: moves the canary's logits by {canary:.1e}, which is rounding (up to {MAX_LOGIT_NOISE})",
    )


def _check_new_tasks(candidate: Scores, current: Scores, min_gain: float) -> Finding:
    """Require a higher action accuracy. At equal accuracy, or without actions, require a loss lower by ``min_gain``."""
    if not (math.isfinite(candidate.loss) and math.isfinite(current.loss)):
        return Finding(False, f"held-out loss is not finite: {candidate.loss} against {current.loss} before")
    loss = f"held-out loss {candidate.loss:.4f} against {current.loss:.4f} before"
    if candidate.accuracy is not None and current.accuracy is not None:
        accuracy = (
            f"held-out action accuracy {candidate.accuracy:.3f} against {current.accuracy:.3f} before "
            f"({candidate.actions} actions)"
        )
        if candidate.accuracy != current.accuracy:
            is_better = candidate.accuracy > current.accuracy
            return Finding(is_better, f"{'higher' if is_better else 'lower'} {accuracy}; {loss}")
        loss = f"{accuracy}; {loss}"
    if candidate.loss <= current.loss * (1 - min_gain) and candidate.loss < current.loss:
        return Finding(True, f"{loss}: lower by at least {min_gain:.1%}")
    return Finding(False, f"{loss}: not lower by {min_gain:.1%}")


def _check_forgetting(earlier: Comparison, max_loss: float) -> Finding:
    now, before = earlier.candidate, earlier.reference
    if now.accuracy is not None and before.accuracy is not None:
        numbers = (
            f"action accuracy on earlier tasks {now.accuracy:.3f} against {before.accuracy:.3f} before "
            f"({now.actions} actions)"
        )
        if _is_within(before.accuracy - now.accuracy, max_loss, now.actions):
            return Finding(True, numbers)
        return Finding(False, f"forgets: {numbers}: may be lower by {max_loss}")
    numbers = f"loss on earlier tasks {now.loss:.4f} against {before.loss:.4f} before"
    if now.loss <= before.loss * (1 + max_loss):
        return Finding(True, numbers)
    return Finding(False, f"forgets: {numbers}: may be higher by {max_loss:.1%}")


def _check_rate(name: str, now: float | None, before: float | None, max_rise: float, calls: int) -> Iterator[Finding]:
    if now is not None and before is not None:
        numbers = f"{name} {now:.3f} against {before:.3f} before"
        passed = _is_within(now - before, max_rise, calls)
        yield Finding(passed, numbers if passed else f"more {numbers} ({calls} actions): may be higher by {max_rise}")


def _is_within(change: float, max_change: float, calls: int) -> bool:
    """Whether a share of ``calls`` changed by ``max_change`` at most, or by one call, which is not evidence enough."""
    return change <= max(max_change, 1 / calls) + 1e-9


def _check_control(control: Comparison, max_ratio: float) -> Finding:
    """Reject a collapse only: an adapter may be worse on tasks for which it was not trained."""
    now, base = control.candidate.loss, control.reference.loss
    numbers = f"loss on other instances' tasks {now:.4f} against the base model's {base:.4f}"
    if now <= base * max_ratio:
        return Finding(True, numbers)
    return Finding(False, f"collapsed: {numbers}: may be {max_ratio} times that")
