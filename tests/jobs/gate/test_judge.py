"""The gate: each check can pass, refuse, or be undecided, and the reason names it."""

import math
from typing import Any

import pytest

from looper.jobs.gate.judge import judge_candidate
from looper.platform.domain.scores import CandidateScores, Comparison, GateVerdict, Scores, TaskCounts, TaskPair
from looper.platform.settings import GateSettings
from tests.gate import LENIENT_GATE
from tests.jobs.gate.simulation import Pair, scores_of

LIMITS = GateSettings()

BETTER: tuple[Pair, ...] = ((1, 1, 0),) * 10
SAME: tuple[Pair, ...] = ((2, 2, 2),) * 10


def decision(verdict: GateVerdict) -> str:
    assert not (verdict.passed and verdict.undecided)
    return "passed" if verdict.passed else "undecided" if verdict.undecided else "refused"


def loss(value: float) -> Scores:
    return Scores(accuracy=None, loss=value, actions=0, tokens=1000)


def with_losses(scores: CandidateScores, now: float, before: float) -> CandidateScores:
    return scores.model_copy(
        update={
            "candidate": scores.candidate.model_copy(update={"loss": now}),
            "current": scores.current.model_copy(update={"loss": before}),
        }
    )


def losses_by_task(now: list[float], before: list[float]) -> tuple[TaskPair, ...]:
    """Make results on tasks without tool calls."""
    counts = [[TaskCounts(actions=0, right=0, loss=x, weight=1) for x in each] for each in (now, before)]
    return tuple(TaskPair(candidate=a, reference=b) for a, b in zip(*counts, strict=True))


@pytest.mark.parametrize(
    ("tasks", "expected", "reason"),
    [
        (BETTER, "passed", "10 of 10 actions right on new tasks against 0 before (better on 10"),
        (((1, 0, 1),) * 10, "refused", "worse: 0 of 10 actions right"),
        (((1, 1, 0),) * 5, "passed", "the probability of that by chance is 0.031, and evidence is at most 0.035"),
        (((1, 1, 0),) * 4, "undecided", "too little evidence"),
        (((5, 5, 0),) * 4, "undecided", "too little evidence"),
        (((1, 1, 0),) * 5 + ((1, 0, 1),), "undecided", "too little evidence"),
        (SAME, "undecided", "more tasks would not show that it is better"),
        (((1, 0, 0),) * 4, "undecided", "too few right actions: 0 of 4 actions right"),
        (((1, 0, 1),) + ((1, 0, 0),) * 6, "undecided", "too few right actions"),
        (((1, 1, 0), (1, 1, 0), (1, 0, 0)), "undecided", "at this effect about 5 more held-out tasks would suffice"),
    ],
)
def test_new_tasks(tasks: tuple[Pair, ...], expected: str, reason: str) -> None:
    verdict = judge_candidate(scores_of(tasks), LIMITS)
    assert decision(verdict) == expected, verdict.reason
    assert reason in verdict.reason
    assert "\n" not in verdict.reason
    assert verdict.evidence is not None
    assert verdict.evidence.tasks == len(tasks)


@pytest.mark.parametrize("tasks", [10, 17])
def test_the_demos_skills_pass(tasks: int) -> None:
    """The base model gets nothing right, and the skill nearly everything."""
    pairs = [(3, 3, 0)] * (tasks - 1) + [(3, 1, 0)]
    assert decision(judge_candidate(scores_of(pairs), LIMITS)) == "passed"


@pytest.mark.parametrize(
    ("now", "before", "expected"),
    [
        (2.5, 2.0, "passed"),
        (6.1, 2.0, "refused"),
        (0.7, 0.01, "passed"),
        (0.8, 0.01, "refused"),
        (math.nan, 2.0, "refused"),
        (math.inf, 2.0, "refused"),
        (1.0, math.nan, "refused"),
    ],
)
def test_a_loss_that_explodes_is_refused_whatever_the_accuracy_is(now: float, before: float, expected: str) -> None:
    verdict = judge_candidate(with_losses(scores_of(BETTER), now, before), LIMITS)
    assert decision(verdict) == expected
    if expected == "refused":
        assert verdict.reason.startswith(("explodes: loss on new tasks", "not finite: loss on new tasks"))


@pytest.mark.parametrize(
    ("now", "before", "expected"),
    [
        ([1.0] * 6, [2.0] * 6, "passed"),
        ([1.0] * 3, [2.0] * 3, "undecided"),
        ([1.999] * 6, [2.0] * 6, "undecided"),
        ([2.0] * 6, [2.0] * 6, "undecided"),
        ([2.5] * 7, [2.0] * 7, "refused"),
    ],
)
def test_without_tool_calls_the_losses_of_the_tasks_are_compared(
    now: list[float], before: list[float], expected: str
) -> None:
    scores = CandidateScores(
        candidate=loss(sum(now) / len(now)),
        current=loss(sum(before) / len(before)),
        new_tasks=losses_by_task(now, before),
    )
    assert decision(judge_candidate(scores, LIMITS)) == expected


@pytest.mark.parametrize(
    ("lost", "gained", "expected", "reason"),
    [
        (0, 0, "passed", ""),
        (1, 0, "passed", ""),
        (9, 8, "passed", ""),
        (0, 20, "passed", ""),
        (
            4,
            0,
            "undecided",
            "may forget 16 of 20 actions right on earlier tasks against 20 of the best version (better",
        ),
        (8, 0, "refused", "forgets 12 of 20 actions right on earlier tasks against 20 of the best version"),
        (10, 3, "undecided", "may forget"),
    ],
)
def test_earlier_tasks_are_compared_with_the_best_version(lost: int, gained: int, expected: str, reason: str) -> None:
    earlier: list[Pair] = [(1, 0, 1)] * lost + [(1, 1, 0)] * gained + [(1, 1, 1)] * (20 - lost - gained)
    verdict = judge_candidate(scores_of(BETTER, earlier), LIMITS)
    assert decision(verdict) == expected
    assert verdict.reason.startswith(reason)
    assert verdict.earlier_evidence is not None
    assert (verdict.earlier_evidence.tasks, verdict.earlier_evidence.net) == (20, gained - lost)


@pytest.mark.parametrize(
    ("now", "expected"),
    [([1.0] * 8, "passed"), ([1.01] * 8, "passed"), ([1.1] * 3, "undecided"), ([1.1] * 8, "refused")],
)
def test_without_tool_calls_forgetting_is_a_higher_loss(now: list[float], expected: str) -> None:
    best = [1.0] * len(now)
    scores = scores_of(BETTER).model_copy(
        update={
            "earlier": Comparison(candidate=loss(now[0]), reference=loss(1.0)),
            "earlier_tasks": losses_by_task(now, best),
        }
    )
    assert decision(judge_candidate(scores, LIMITS)) == expected


def with_calls(wrong_now: list[int], wrong_before: list[int], kind: str) -> CandidateScores:
    """Make scores of ten new tasks of four calls each, with so many loops or invalid calls."""
    scores = scores_of(((4, 4, 0),) * 10)
    pairs = tuple(
        TaskPair(
            candidate=pair.candidate.model_copy(update={kind: now}),
            reference=pair.reference.model_copy(update={kind: before}),
        )
        for pair, now, before in zip(scores.new_tasks or (), wrong_now, wrong_before, strict=True)
    )
    sides = {"candidate": wrong_now, "current": wrong_before}
    shares = {name: getattr(scores, name).model_copy(update={kind: sum(of) / 40}) for name, of in sides.items()}
    return scores.model_copy(update={"new_tasks": pairs, **shares})


@pytest.mark.parametrize(("kind", "name"), [("loops", "repeated calls"), ("tool_errors", "invalid calls")])
def test_more_wrong_calls_need_evidence_to_refuse_and_one_call_is_none(kind: str, name: str) -> None:
    none, one, some, all_ = [0] * 10, [1, *[0] * 9], [2, 2, *[0] * 8], [2] * 10
    assert decision(judge_candidate(with_calls(one, none, kind), LIMITS)) == "passed"
    assert decision(judge_candidate(with_calls(all_, all_, kind), LIMITS)) == "passed"
    perhaps = judge_candidate(with_calls(some, none, kind), LIMITS)
    assert decision(perhaps) == "undecided"
    assert perhaps.reason.startswith(f"perhaps more {name} in new tasks 0.100 against 0.000 before")
    surely = judge_candidate(with_calls(all_, none, kind), LIMITS)
    assert decision(surely) == "refused"
    assert surely.reason.startswith(f"more {name} in new tasks 0.500 against 0.000 before (40 actions)")


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ({"canary": 0.0}, "has no effect: moves the canary's logits by 0.0e+00"),
        ({"canary": 2e-6}, "has no effect"),
        (
            {"control": Comparison(candidate=loss(9.0), reference=loss(2.0))},
            "collapsed: loss on other instances' tasks 9.0000 against the base model's 2.0000: may be 4.0 times that",
        ),
        (
            {
                "earlier": Comparison(candidate=loss(7.0), reference=loss(2.0)),
                "earlier_tasks": losses_by_task([1], [1]),
            },
            "explodes: loss on earlier tasks 7.0000 against 2.0000 before: may be 3 times that",
        ),
    ],
)
def test_what_no_statistics_excuse_is_refused(numbers: dict[str, Any], reason: str) -> None:
    verdict = judge_candidate(scores_of(BETTER).model_copy(update=numbers), LIMITS)
    assert decision(verdict) == "refused"
    assert verdict.reason.startswith(reason)


def test_a_refusal_outweighs_what_is_undecided_and_the_reason_has_all_that_is() -> None:
    unsure = scores_of(SAME, ((1, 1, 1),) * 16 + ((1, 0, 1),) * 4)
    verdict = judge_candidate(unsure, LIMITS)
    assert decision(verdict) == "undecided"
    assert "too little evidence" in verdict.reason
    assert "may forget" in verdict.reason
    assert decision(judge_candidate(unsure.model_copy(update={"canary": 0.0}), LIMITS)) == "refused"


def test_scores_of_an_earlier_release_are_undecided() -> None:
    old = scores_of(BETTER, SAME).model_copy(update={"new_tasks": None, "earlier_tasks": None})
    verdict = judge_candidate(CandidateScores.model_validate_json(old.model_dump_json()), LIMITS)
    assert decision(verdict) == "undecided"
    assert "a trainer of an earlier release measured it" in verdict.reason


def test_with_a_false_pass_rate_of_1_whatever_is_not_evidently_worse_passes() -> None:
    lenient = GateSettings(**LENIENT_GATE)
    for tasks in (SAME, ((1, 0, 0),) * 4, ((1, 0, 1),) * 3):
        assert decision(judge_candidate(scores_of(tasks), lenient)) == "passed"
    assert decision(judge_candidate(scores_of(((1, 0, 1),) * 10), lenient)) == "refused"


def test_the_verdict_has_all_scores_but_no_results_by_task() -> None:
    numbers = scores_of(BETTER, SAME).model_copy(update={"canary": 0.3, "conversion_error": 0.0})
    verdict = judge_candidate(numbers, LIMITS)
    extra = {"passed", "undecided", "reason", "evidence", "earlier_evidence", "exact", "contexts"}
    kept = numbers.model_copy(update={"new_tasks": None, "earlier_tasks": None})
    assert CandidateScores(**verdict.model_dump(exclude=extra)) == kept
    assert verdict.reason.startswith(
        "moves the canary's logits by 30.00%; loss on new tasks 1.0000 against 1.0000 before"
    )
    assert verdict.reason.endswith("20 of 20 actions right on earlier tasks against 20 of the best version")
