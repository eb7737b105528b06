"""How an episode ended, from the source's own checks where it has them, else from what was done."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from looper.jobs.synthesis.actions import actions, ends, reads
from looper.jobs.synthesis.draft import Draft, Error, Grade, StageVerdict

STAGE = "grade"

WEIGHTS = {Grade.VERIFIED: 1.0, Grade.STATED: 0.7, Grade.UNLABELLED: 0.5, Grade.VACUOUS: 0.3}
"""How much is learned from an episode of each grade; of the others nothing is."""


def grade(draft: Draft) -> Draft:
    """Give ``draft`` its grade and weight, or reject it. Its tools' errors must have been told apart before."""
    found = _grade(draft)
    graded = replace(draft, grade=found, weight=WEIGHTS.get(found, 0.0))
    if found is Grade.FAILED:
        return graded.reject(STAGE, "failed", "its source says that it failed")
    if found is Grade.ENVIRONMENT:
        return graded.reject(STAGE, "environment", "it failed after a tool had broken: nothing the agent did")
    if found is Grade.UNLABELLED and draft.labelled:
        return graded.reject(STAGE, "unlabelled", "nobody judged it, where others of its source were judged")
    detail = f"weighs {graded.weight:g}"
    return replace(graded, verdicts=(*graded.verdicts, StageVerdict(STAGE, found.value, detail)))


def choose(draft: Draft) -> Draft:
    """By the label alone, without a grade: what succeeded, and all of a source that judged nothing."""
    success = draft.source.outcome.success
    if success is None and draft.labelled:
        return draft.reject(STAGE, "unlabelled", "nobody judged it, where others of its source were judged")
    return draft.reject(STAGE, "failed", "its source says that it failed") if success is False else draft


def _grade(draft: Draft) -> Grade:
    outcome = draft.source.outcome
    if outcome.success is None:
        return Grade.UNLABELLED
    if not outcome.success:
        return Grade.ENVIRONMENT if _ended_broken(draft) else Grade.FAILED
    checks = _object(outcome.detail)
    return _tau_bench(checks) or _tau2(checks, draft) or _by_deeds(draft)


def _ended_broken(draft: Draft) -> bool:
    """Whether the last thing that an episode did met a tool that was broken, and nothing was changed after it."""
    done = actions(draft.steps)
    broken = [number for number, action in enumerate(done) if Error.ENVIRONMENT in action.errors]
    return bool(broken) and not any(action.writes for action in done[broken[-1] + 1 :])


def _tau_bench(checks: Mapping[str, Any]) -> Grade | None:
    """tau-bench compares the data base with what its gold actions make of it, and what was said with its outputs."""
    info = checks.get("reward_info")
    if not isinstance(info, dict) or not isinstance(info.get("actions"), list):
        return None
    names = [str(action.get("name")) for action in info["actions"] if isinstance(action, dict)]
    if any(not reads(name) and not ends(name) for name in names):
        return Grade.VERIFIED
    return Grade.STATED if _outputs(info) else Grade.VACUOUS


def _outputs(info: Mapping[str, Any]) -> bool:
    inner = info.get("info")
    return bool(isinstance(inner, dict) and inner.get("outputs"))


def _tau2(checks: Mapping[str, Any], draft: Draft) -> Grade | None:
    """tau2 names what its reward rests on; one that rests on the data base is vacuous where nothing was written."""
    basis = checks.get("reward_basis")
    if not isinstance(basis, list):
        return None
    if not {"DB", "ENV_ASSERTION", "ACTION"} & set(map(str, basis)):
        return Grade.STATED
    return Grade.VERIFIED if any(action.writes for action in actions(draft.steps)) else Grade.VACUOUS


def _by_deeds(draft: Draft) -> Grade:
    return Grade.VERIFIED if any(action.writes for action in actions(draft.steps)) else Grade.STATED


def _object(text: str) -> Mapping[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
