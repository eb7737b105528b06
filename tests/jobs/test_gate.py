"""The gate: each check can pass and reject, and the reason names it."""

import math
from typing import Any

import pytest

from looper.jobs.gate.judge import judge_candidate
from looper.platform.domain.scores import CandidateScores, Comparison, Scores
from looper.platform.settings import GateSettings

LIMITS = GateSettings(min_gain=0.01)


def scores(accuracy: float | None, loss: float, *, loops: float | None = None, broken: float | None = None) -> Scores:
    actions = 0 if accuracy is None else 100
    return Scores(accuracy=accuracy, loss=loss, actions=actions, tokens=1000, loops=loops, tool_errors=broken)


GOOD = scores(0.9, 0.5, loops=0.1, broken=0.2)
POOR = scores(0.1, 2.0, loops=0.1, broken=0.2)


def compare(candidate: Scores, reference: Scores) -> Comparison:
    return Comparison(candidate=candidate, reference=reference)


def passing_scores(**numbers: Any) -> CandidateScores:
    """Return scores that pass the gate, except for ``numbers``."""
    passing = {
        "candidate": GOOD,
        "current": POOR,
        "earlier": compare(GOOD, GOOD),
        "control": compare(scores(0.1, 2.5), scores(0.2, 2.0)),
        "canary": 0.3,
        "conversion_error": 0.0,
    }
    return CandidateScores(**passing | numbers)


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
def test_a_candidate_must_be_better_on_new_tasks(candidate: Scores, current: Scores, passed: bool) -> None:
    verdict = judge_candidate(CandidateScores(candidate=candidate, current=current), LIMITS)
    assert verdict.passed is passed
    assert "\n" not in verdict.reason
    assert str(candidate.loss)[:3] in verdict.reason


def test_equal_scores_never_pass_even_without_a_minimum_gain() -> None:
    same = CandidateScores(candidate=POOR, current=POOR)
    assert not judge_candidate(same, GateSettings(min_gain=0)).passed


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ({"canary": 0.0}, "has no effect: moves the canary's logits by 0.0e+00"),
        ({"canary": 2e-6, "candidate": POOR}, "has no effect"),
        (
            {"earlier": compare(scores(0.85, 0.5), scores(0.9, 0.5))},
            "forgets: action accuracy on earlier tasks 0.850 against 0.900 before (100 actions): may be lower by 0.02",
        ),
        (
            {"earlier": compare(scores(None, 2.1), scores(None, 2.0))},
            "forgets: loss on earlier tasks 2.1000 against 2.0000 before: may be higher by 2.0%",
        ),
        (
            {"candidate": scores(0.9, 0.5, loops=0.13, broken=0.2)},
            "more repeated calls in new tasks 0.130 against 0.100 before (100 actions): may be higher by 0.02",
        ),
        ({"candidate": scores(0.9, 0.5, loops=0.1, broken=0.3)}, "more invalid calls in new tasks 0.300 against 0.200"),
        (
            {"earlier": compare(scores(0.9, 0.5, loops=0.5), scores(0.9, 0.5, loops=0.0))},
            "more repeated calls in earlier tasks 0.500",
        ),
        (
            {"control": compare(scores(0.0, 9.0), scores(0.2, 2.0))},
            "collapsed: loss on other instances' tasks 9.0000 against the base model's 2.0000: may be 4.0 times that",
        ),
    ],
)
def test_each_check_can_reject_and_gives_its_reason(numbers: dict[str, Any], reason: str) -> None:
    verdict = judge_candidate(passing_scores(**numbers), LIMITS)
    assert not verdict.passed
    assert verdict.reason.startswith(reason)


@pytest.mark.parametrize(
    "numbers",
    [
        {"earlier": compare(scores(0.88, 9.0), scores(0.9, 0.5))},
        {"earlier": compare(scores(None, 2.03), scores(None, 2.0))},
        {"earlier": None, "control": None, "canary": None},
        {
            "candidate": scores(0.9, 0.5, loops=0.12, broken=0.0),
            "control": compare(scores(None, 7.9), scores(0.2, 2.0)),
        },
        {"candidate": scores(0.9, 0.5, loops=0.9, broken=0.9), "current": scores(0.1, 2.0, loops=1.0, broken=1.0)},
    ],
)
def test_scores_within_the_limits_pass(numbers: dict[str, Any]) -> None:
    verdict = judge_candidate(passing_scores(**numbers), LIMITS)
    assert verdict.passed, verdict.reason


def test_a_single_call_is_not_held_against_a_candidate() -> None:
    def of_five(accuracy: float) -> Scores:
        return Scores(accuracy=accuracy, loss=1, actions=5, tokens=50)

    assert judge_candidate(passing_scores(earlier=compare(of_five(0.6), of_five(0.8))), LIMITS).passed
    assert not judge_candidate(passing_scores(earlier=compare(of_five(0.4), of_five(0.8))), LIMITS).passed


def test_the_verdict_has_all_scores_and_lists_all_passed_checks() -> None:
    numbers = passing_scores()
    verdict = judge_candidate(numbers, LIMITS)
    assert CandidateScores(**verdict.model_dump(exclude={"passed", "reason"})) == numbers
    assert verdict.reason == (
        "moves the canary's logits by 30.00%; "
        "higher held-out action accuracy 0.900 against 0.100 before (100 actions); "
        "held-out loss 0.5000 against 2.0000 before; "
        "action accuracy on earlier tasks 0.900 against 0.900 before (100 actions); "
        "repeated calls in new tasks 0.100 against 0.100 before; "
        "invalid calls in new tasks 0.200 against 0.200 before; "
        "repeated calls in earlier tasks 0.100 against 0.100 before; "
        "invalid calls in earlier tasks 0.200 against 0.200 before; "
        "loss on other instances' tasks 2.5000 against the base model's 2.0000"
    )
