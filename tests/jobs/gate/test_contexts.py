"""The gate counts results by context: a skill that is better over all may not be worse beside notes."""

import numpy as np
import pytest

from looper.jobs.gate.checks import MIN_CONTEXT_ACTIONS
from looper.jobs.gate.judge import judge_candidate
from looper.platform.domain.scores import CandidateScores, GateVerdict
from looper.platform.settings import GateSettings
from tests.jobs.gate.simulation import Pair, scores_of, simulate_pairs, spread_over_contexts

LIMITS = GateSettings()
BETTER: tuple[Pair, ...] = ((1, 1, 0),) * 20
WORSE: tuple[Pair, ...] = ((1, 0, 1),) * 10


def judge(contexts: dict[str, tuple[Pair, ...]]) -> GateVerdict:
    return judge_candidate(
        scores_of(tuple(pair for pairs in contexts.values() for pair in pairs), (), contexts), LIMITS
    )


def test_better_in_every_context_passes_and_the_verdict_counts_them_apart() -> None:
    verdict = judge({"": BETTER, "with_notes": BETTER[:6]})
    assert verdict.passed
    assert "6 of 6 actions right on new tasks beside notes against 0 before" in verdict.reason
    assert verdict.contexts is not None
    assert {name: each.candidate.right for name, each in verdict.contexts.items()} == {"": 20, "with_notes": 6}
    assert verdict.exact is not None
    assert (verdict.exact.candidate, verdict.exact.reference, verdict.exact.tasks) == (26, 0, 26)


def test_better_over_all_but_worse_in_one_context_is_refused() -> None:
    verdict = judge({"": BETTER, "with_notes": WORSE})
    assert not verdict.passed
    assert not verdict.undecided
    assert verdict.reason.startswith("worse beside notes: 0 of 10 actions right")


def test_perhaps_worse_in_one_context_is_undecided() -> None:
    verdict = judge({"": BETTER, "with_wrong_episodes": WORSE[:4]})
    assert verdict.undecided
    assert "perhaps worse beside wrong earlier episodes" in verdict.reason


@pytest.mark.parametrize(("actions", "passed"), [(MIN_CONTEXT_ACTIONS, False), (MIN_CONTEXT_ACTIONS - 1, True)])
def test_nothing_right_in_a_context_needs_some_actions_to_count(actions: int, passed: bool) -> None:
    verdict = judge({"": BETTER, "with_newer_note": ((1, 0, 0),) * actions})
    assert verdict.passed is passed
    assert passed or "too few right actions beside a newer note" in verdict.reason


def test_the_contexts_share_the_rate_of_false_refusals() -> None:
    """Seven tasks that are all worse are evidence alone (1 in 128 by chance), but not as one of two contexts."""
    seven = WORSE[:7]
    assert not judge({"with_notes": seven}).undecided
    assert judge({"": BETTER, "with_notes": seven}).undecided


def test_an_equal_skill_is_not_refused_more_often_for_its_contexts() -> None:
    rng = np.random.default_rng(0)
    drawn = [simulate_pairs(rng, 30, 0.6, 0.6, 0.0, 2) for _ in range(400)]
    refused = sum(not (verdict.passed or verdict.undecided) for verdict in map(judge, map(spread_over_contexts, drawn)))
    assert refused / len(drawn) <= 2 * LIMITS.false_refusal_rate  # of the new tasks and of the contexts


def test_trainers_of_an_earlier_release_have_no_contexts() -> None:
    old = scores_of(BETTER).model_dump(exclude={"new_tasks_by_context"})
    verdict = judge_candidate(CandidateScores.model_validate(old), LIMITS)
    assert verdict.passed
    assert verdict.contexts is None
