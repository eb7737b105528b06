"""Judge a candidate: run the checks, and make the verdict of their findings.

``looper.jobs.queue.publication`` calls it for each candidate. ``checks.py`` has the checks.
"""

from collections.abc import Iterator, Mapping

from looper.jobs.gate.checks import (
    Finding,
    GateOutcome,
    check_context,
    check_control,
    check_effect,
    check_forgetting,
    check_loss,
    check_new_tasks,
    check_rates,
    count_exact_tasks,
    summarize_context,
)
from looper.platform.domain.scores import CandidateScores, Comparison, ContextResults, GateVerdict
from looper.platform.settings import GateSettings


def judge_candidate(scores: CandidateScores, limits: GateSettings) -> GateVerdict:
    """Pass a candidate with evidence of better, refuse one with evidence of worse, and leave the others undecided.

    The checks, in order: it changes the logits at all; its loss has not exploded; it is better on the held-out tasks of
    its own session, and not worse on them in any context; it is not worse on those of earlier sessions than the best of
    its lineage; it does not make more repeated or invalid calls; and it has not collapsed on other instances' tasks. A
    check without a measurement is left out. One refusal refuses, and without one, a single check that is undecided
    leaves the candidate undecided.

    Args:
        scores: Scores of the candidate, and of the version that it started from.
        limits: Limits of the checks.

    Returns:
        The verdict. Its reason is the first check that refused, or all that are undecided, or all passed ones.
    """
    exact = None if scores.new_tasks is None else count_exact_tasks(scores.new_tasks)
    new_tasks = check_new_tasks(scores, exact, limits)
    contexts = {context: summarize_context(pairs) for context, pairs in (scores.new_tasks_by_context or {}).items()}
    forgetting = None if scores.earlier is None else check_forgetting(scores, scores.earlier, limits)
    findings = list(_check_all(scores, limits, new_tasks, contexts, forgetting))
    worst = max(finding.outcome for finding in findings)
    texts = [finding.text for finding in findings if finding.outcome is worst]
    by_task = ("new_tasks", "earlier_tasks", "new_tasks_by_context")
    measured = dict(scores.model_copy(update=dict.fromkeys(by_task)))
    return GateVerdict(
        passed=worst is GateOutcome.PASSED,
        undecided=worst is GateOutcome.UNDECIDED,
        reason=texts[0] if worst is GateOutcome.REFUSED else "; ".join(texts),
        evidence=new_tasks.evidence,
        earlier_evidence=forgetting and forgetting.evidence,
        exact=exact,
        contexts=contexts or None,
        **measured,
    )


def _check_all(
    scores: CandidateScores,
    limits: GateSettings,
    new_tasks: Finding,
    contexts: Mapping[str, ContextResults],
    forgetting: Finding | None,
) -> Iterator[Finding]:
    new = Comparison(candidate=scores.candidate, reference=scores.current)
    if scores.canary is not None:
        yield check_effect(scores.canary)
    yield check_loss("new tasks", new.candidate.loss, new.reference.loss, limits.max_loss_ratio)
    yield new_tasks
    for context, results in contexts.items():
        yield check_context(context, results, len(contexts), limits)
    if forgetting is not None and scores.earlier is not None:
        now, before = scores.earlier.candidate, scores.earlier.reference
        yield check_loss("earlier tasks", now.loss, before.loss, limits.max_loss_ratio)
        yield forgetting
    yield from check_rates("new tasks", new, scores.new_tasks, limits)
    if scores.earlier is not None:
        yield from check_rates("earlier tasks", scores.earlier, scores.earlier_tasks, limits)
    if scores.control is not None:
        yield check_control(scores.control, limits.max_control_loss)
