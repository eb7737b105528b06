import math

import pytest

from looper.jobs.gate import judge
from looper.platform.domain.consolidation import Scores


def scores(accuracy: float | None, loss: float) -> Scores:
    return Scores(accuracy=accuracy, loss=loss, actions=0 if accuracy is None else 20, tokens=100)


@pytest.mark.parametrize(
    ("candidate", "current", "passed"),
    [
        (scores(0.9, 0.5), scores(0.1, 2.0), True),
        (scores(0.9, 2.5), scores(0.1, 2.0), True),
        (scores(0.1, 0.5), scores(0.2, 2.0), False),
        (scores(0.2, 1.9), scores(0.2, 2.0), True),
        (scores(0.2, 1.999), scores(0.2, 2.0), False),
        (scores(0.2, 2.0), scores(0.2, 2.0), False),
        (scores(None, 1.0), scores(None, 2.0), True),
        (scores(None, 2.1), scores(None, 2.0), False),
        (scores(0.9, math.nan), scores(0.1, 2.0), False),
        (scores(0.9, math.inf), scores(0.1, 2.0), False),
        (scores(0.9, 1.0), scores(0.1, math.nan), False),
    ],
)
def test_the_gate(candidate: Scores, current: Scores, passed: bool) -> None:
    verdict = judge(candidate, current, min_gain=0.01)
    assert verdict.passed is passed
    assert "\n" not in verdict.reason
    assert str(candidate.loss)[:3] in verdict.reason


def test_equal_scores_never_pass_even_without_a_least_gain() -> None:
    assert not judge(scores(0.2, 2.0), scores(0.2, 2.0), min_gain=0).passed


def test_the_reason_gives_the_numbers() -> None:
    verdict = judge(scores(0.9, 0.5), scores(0.1, 2.0), min_gain=0.01)
    assert verdict.reason == (
        "higher held-out action accuracy 0.900 against 0.100 before (20 actions); "
        "held-out loss 0.5000 against 2.0000 before"
    )
