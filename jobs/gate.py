"""The gate: whether a candidate may replace the version that is served now."""

import math

from looper.platform.domain.consolidation import Scores, Verdict


def judge(candidate: Scores, current: Scores, min_gain: float) -> Verdict:
    """Pass a candidate that acts better on held-out tasks, or acts as well and predicts the agent better.

    It must reach a higher next-action accuracy; at equal accuracy, or where there is no action to judge, a loss lower
    by at least the share ``min_gain``. A lower accuracy or a number that is none never passes.
    """
    passed, finding = _compare(candidate, current, min_gain)
    return Verdict(passed=passed, reason=finding, candidate=candidate, current=current)


def _compare(candidate: Scores, current: Scores, min_gain: float) -> tuple[bool, str]:
    if not (math.isfinite(candidate.loss) and math.isfinite(current.loss)):
        return False, f"held-out loss is no number: {candidate.loss} against {current.loss} before"
    loss = f"held-out loss {candidate.loss:.4f} against {current.loss:.4f} before"
    if candidate.accuracy is not None and current.accuracy is not None:
        accuracy = (
            f"held-out action accuracy {candidate.accuracy:.3f} against {current.accuracy:.3f} before "
            f"({candidate.actions} actions)"
        )
        if candidate.accuracy != current.accuracy:
            better = candidate.accuracy > current.accuracy
            return better, f"{'higher' if better else 'lower'} {accuracy}; {loss}"
        loss = f"{accuracy}; {loss}"
    if candidate.loss <= current.loss * (1 - min_gain) and candidate.loss < current.loss:
        return True, f"{loss}: lower by at least {min_gain:.1%}"
    return False, f"{loss}: not lower by {min_gain:.1%}"
