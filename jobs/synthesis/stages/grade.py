"""The grade stage: how an episode ended, from the checks of its source if it has some, else from what the agent did.

``pipeline/stages.py`` calls it after ``classify_errors``, whose result it needs.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from looper.jobs.synthesis.actions import extract_actions, is_end_tool, is_read_only_tool
from looper.jobs.synthesis.draft import Draft, ErrorKind, Grade, StageVerdict
from looper.jobs.synthesis.json_object import parse_json_object

STAGE = "grade"

GRADE_WEIGHTS = {Grade.VERIFIED: 1.0, Grade.STATED: 0.7, Grade.UNLABELED: 0.5, Grade.VACUOUS: 0.3}
"""Loss weight of an episode by its grade. Episodes of the other grades are rejected."""

_STATE_REWARDS = {"DB", "ENV_ASSERTION", "ACTION"}
"""Parts of a tau2 reward that check the state of the environment."""


def grade(draft: Draft) -> Draft:
    """Set the grade and the weight of an episode, or reject it.

    Args:
        draft: The episode, with the kinds of its errors set.

    Returns:
        The graded draft, rejected if it failed or if nobody judged it although other episodes of its source are judged.
    """
    found = _determine_grade(draft)
    graded = replace(draft, grade=found, weight=GRADE_WEIGHTS.get(found, 0.0))
    if found is Grade.FAILED:
        return _reject_failed(graded)
    if found is Grade.ENVIRONMENT:
        return graded.reject(STAGE, "environment", "it failed because a tool was broken, not because of the agent")
    if found is Grade.UNLABELED and draft.has_labels:
        return _reject_unlabeled(graded)
    detail = f"the episode has weight {graded.weight:g}"
    return replace(graded, verdicts=(*graded.verdicts, StageVerdict(STAGE, found.value, detail)))


def select_by_label(draft: Draft) -> Draft:
    """Reject episodes by their label alone, as a replacement of ``grade`` where that stage is disabled.

    Args:
        draft: The episode.

    Returns:
        The draft, rejected if it failed or if nobody judged it although other episodes of its source are judged.
    """
    success = draft.source.outcome.success
    if success is None and draft.has_labels:
        return _reject_unlabeled(draft)
    return _reject_failed(draft) if success is False else draft


def _reject_failed(draft: Draft) -> Draft:
    return draft.reject(STAGE, "failed", "its source says that it failed")


def _reject_unlabeled(draft: Draft) -> Draft:
    return draft.reject(STAGE, "unlabelled", "nobody judged it, although other episodes of its source were judged")


def _determine_grade(draft: Draft) -> Grade:
    outcome = draft.source.outcome
    if outcome.success is None:
        return Grade.UNLABELED
    if not outcome.success:
        return Grade.ENVIRONMENT if _ended_at_broken_tool(draft) else Grade.FAILED
    checks = parse_json_object(outcome.detail) or {}
    return _grade_by_tau_bench(checks) or _grade_by_tau2(checks, draft) or _grade_by_actions(draft)


def _ended_at_broken_tool(draft: Draft) -> bool:
    """Return whether the agent called a broken tool and changed nothing after that."""
    actions = extract_actions(draft.steps)
    broken = [number for number, action in enumerate(actions) if ErrorKind.ENVIRONMENT in action.errors]
    return bool(broken) and not any(action.changed_state for action in actions[broken[-1] + 1 :])


def _grade_by_tau_bench(checks: Mapping[str, Any]) -> Grade | None:
    """Return the grade of a tau-bench success, or None for another source.

    tau-bench compares the database with the result of its gold actions, and the agent's messages with expected outputs.
    If no gold action writes, the database proves nothing.
    """
    info = checks.get("reward_info")
    if not isinstance(info, dict) or not isinstance(info.get("actions"), list):
        return None
    names = [str(action.get("name")) for action in info["actions"] if isinstance(action, dict)]
    if any(not is_read_only_tool(name) and not is_end_tool(name) for name in names):
        return Grade.VERIFIED
    return Grade.STATED if _has_expected_outputs(info) else Grade.VACUOUS


def _has_expected_outputs(info: Mapping[str, Any]) -> bool:
    inner = info.get("info")
    return bool(isinstance(inner, dict) and inner.get("outputs"))


def _grade_by_tau2(checks: Mapping[str, Any], draft: Draft) -> Grade | None:
    """Return the grade of a tau2 success, or None for another source.

    tau2 names the basis of its reward. A check of the database proves nothing if the agent wrote nothing.
    """
    basis = checks.get("reward_basis")
    if not isinstance(basis, list):
        return None
    if _STATE_REWARDS.isdisjoint(map(str, basis)):
        return Grade.STATED
    return Grade.VERIFIED if _changed_state(draft) else Grade.VACUOUS


def _grade_by_actions(draft: Draft) -> Grade:
    return Grade.VERIFIED if _changed_state(draft) else Grade.STATED


def _changed_state(draft: Draft) -> bool:
    return any(action.changed_state for action in extract_actions(draft.steps))
