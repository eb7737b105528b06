"""The gate: whether a candidate may replace the version that is served now."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from looper.platform.domain.consolidation import CandidateScores, Comparison, GateVerdict, Scores
from looper.platform.settings import GateSettings

NOISE = 1e-4
"""Relative difference of logits that rounding can make. A trained adapter makes some hundredths or more."""


class Finding(NamedTuple):
    passed: bool
    what: str


def judge(scores: CandidateScores, limits: GateSettings) -> GateVerdict:
    """Pass a candidate that does better on the new tasks and as well on all else.

    It must do something at all; be better on the held-out tasks of its session; have forgotten nothing of the sessions
    before; neither loop more nor make more invalid calls; and not have collapsed on what is none of its business. What
    was not measured is not asked for. The reason is the first finding against it, or all that it passed with.
    """
    findings = list(_findings(scores, limits))
    failed = next((finding for finding in findings if not finding.passed), None)
    reason = failed.what if failed else "; ".join(finding.what for finding in findings)
    return GateVerdict(passed=failed is None, reason=reason, **dict(scores))


def _findings(scores: CandidateScores, limits: GateSettings) -> Iterator[Finding]:
    if scores.canary is not None:
        yield _differs(scores.canary)
    yield _better(scores.candidate, scores.current, limits.min_gain)
    new = Comparison(candidate=scores.candidate, reference=scores.current)
    if scores.earlier is not None:
        yield _remembers(scores.earlier, limits.max_forgetting)
    for where, each in (("new", new), ("earlier", scores.earlier)):
        if each is not None:
            now, before, calls = each.candidate, each.reference, each.candidate.actions
            yield from _no_more(f"repeated calls in {where} tasks", now.loops, before.loops, limits.max_loops, calls)
            yield from _no_more(
                f"invalid calls in {where} tasks", now.tool_errors, before.tool_errors, limits.max_tool_errors, calls
            )
    if scores.control is not None:
        yield _stands(scores.control, limits.max_control_loss)


def _differs(canary: float) -> Finding:
    if canary > NOISE:
        return Finding(True, f"moves the canary's logits by {canary:.2%}")
    return Finding(False, f"does nothing: moves the canary's logits by {canary:.1e}, which is rounding (up to {NOISE})")


def _better(candidate: Scores, current: Scores, min_gain: float) -> Finding:
    """A higher next-action accuracy, or, at an equal one or without actions, a loss lower by the share ``min_gain``."""
    if not (math.isfinite(candidate.loss) and math.isfinite(current.loss)):
        return Finding(False, f"held-out loss is no number: {candidate.loss} against {current.loss} before")
    loss = f"held-out loss {candidate.loss:.4f} against {current.loss:.4f} before"
    if candidate.accuracy is not None and current.accuracy is not None:
        accuracy = (
            f"held-out action accuracy {candidate.accuracy:.3f} against {current.accuracy:.3f} before "
            f"({candidate.actions} actions)"
        )
        if candidate.accuracy != current.accuracy:
            better = candidate.accuracy > current.accuracy
            return Finding(better, f"{'higher' if better else 'lower'} {accuracy}; {loss}")
        loss = f"{accuracy}; {loss}"
    if candidate.loss <= current.loss * (1 - min_gain) and candidate.loss < current.loss:
        return Finding(True, f"{loss}: lower by at least {min_gain:.1%}")
    return Finding(False, f"{loss}: not lower by {min_gain:.1%}")


def _remembers(earlier: Comparison, most: float) -> Finding:
    now, before = earlier.candidate, earlier.reference
    if now.accuracy is not None and before.accuracy is not None:
        numbers = (
            f"action accuracy on earlier tasks {now.accuracy:.3f} against {before.accuracy:.3f} before "
            f"({now.actions} actions)"
        )
        if _within(before.accuracy - now.accuracy, most, now.actions):
            return Finding(True, numbers)
        return Finding(False, f"forgets: {numbers}: may be lower by {most}")
    numbers = f"loss on earlier tasks {now.loss:.4f} against {before.loss:.4f} before"
    if now.loss <= before.loss * (1 + most):
        return Finding(True, numbers)
    return Finding(False, f"forgets: {numbers}: may be higher by {most:.1%}")


def _no_more(what: str, now: float | None, before: float | None, most: float, calls: int) -> Iterator[Finding]:
    if now is not None and before is not None:
        numbers = f"{what} {now:.3f} against {before:.3f} before"
        passed = _within(now - before, most, calls)
        yield Finding(passed, numbers if passed else f"more {numbers} ({calls} actions): may be higher by {most}")


def _within(change: float, most: float, calls: int) -> bool:
    """Whether a share of ``calls`` changed by ``most`` at most, or by a single call: one call is no evidence."""
    return change <= max(most, 1 / calls) + 1e-9


def _stands(control: Comparison, most: float) -> Finding:
    """An adapter may be worse where it was not trained: only one that is beyond all bounds is broken."""
    now, base = control.candidate.loss, control.reference.loss
    numbers = f"loss on other instances' tasks {now:.4f} against the bare base's {base:.4f}"
    if now <= base * most:
        return Finding(True, numbers)
    return Finding(False, f"collapsed: {numbers}: may be {most} times that")
