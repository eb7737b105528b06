"""Hindsight relabeling: a failed episode is often a good episode of another task.

What the agent did achieve becomes the new request. After Andrychowicz et al., 2017 (arXiv 1707.01495). Their goals are
states; ours are sentences that a model writes and may get wrong. So a new request is accepted only if the environment
confirms it, or if two judges with different prompts do. ``draft_stages.py`` calls ``relabel``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from looper.jobs.synthesis.draft import Draft, DraftStep, Grade, StageVerdict
from looper.jobs.synthesis.llm import judge
from looper.jobs.synthesis.llm.evidence import observations_confirm
from looper.jobs.synthesis.llm.prompt import build_request, render_transcript, to_one_line
from looper.jobs.synthesis.llm.request import Generate, LLMRequest, generate_by_key
from looper.jobs.synthesis.llm.response_parser import (
    has_markup,
    no_response,
    parse_judgment,
    parse_response,
    unusable_response,
)
from looper.jobs.synthesis.stages.grade import GRADE_WEIGHTS
from looper.platform.settings import ModelStage

STAGE: ModelStage = "hindsight"
"""Name of the stage in the settings and in verdicts."""

MAX_REQUEST_CHARACTERS = 1_000
"""Maximum number of characters of a new request."""

ConfirmRequest = Callable[[Draft, str], bool | None]
"""Returns whether the environment at the end of an episode is as a request wants it, or None if that is not known."""

_JUDGE_PROMPTS = (judge.JUDGE_PROMPT, judge.SKEPTICAL_PROMPT)
_UNCHANGED = "the draft stays failed"
_TASK = """
An agent was asked for something, worked at it with tools, and failed. Find out what it did achieve all the same: what
it changed in the world or found out, as the tools' answers show. Then write the request to which this very episode is
the right answer, as the user would have put it: in the user's language and manner, with every value that the agent's
calls needed, asking for all that it changed and for nothing that it did not do.
If it achieved nothing that anyone would ask for, "achieved" is false.
"""
_FORM = '{"achieved": true, "request": "<the request>"} or {"achieved": false}'


def relabel(drafts: Sequence[Draft], generate: Generate, confirm: ConfirmRequest | None = None) -> list[Draft]:
    """Give failed drafts the request that they do fulfill, where that can be confirmed.

    ``confirm`` decides, both ways. Where it does not know, the tool results may show a change that matches the request.
    Otherwise two judges must both say yes. Episodes with several requests of the user are left as they are, because
    later requests continue what was requested first.

    Args:
        drafts: Graded drafts with classified errors. Those that did not fail are not changed.
        generate: Sends requests to the model.
        confirm: Checks a new request against the environment.

    Returns:
        The drafts in the same order.
    """
    drafts = list(drafts)
    user_steps = {index: step for index, draft in enumerate(drafts) if (step := _only_user_step(draft)) is not None}
    responses = generate_by_key(generate, {index: _build_proposal_request(drafts[index]) for index in user_steps})
    undecided: dict[int, tuple[str, Draft]] = {}
    for index, response in responses.items():
        draft, request = drafts[index], _parse_proposal(response)
        if isinstance(request, StageVerdict):
            drafts[index] = draft.with_steps(draft.steps, request)
            continue
        candidate = _replace_request(draft, user_steps[index], request)
        is_confirmed = confirm(draft, request) if confirm else None
        if is_confirmed is None and not observations_confirm(draft.steps, request):
            undecided[index] = request, candidate
        elif is_confirmed is False:
            drafts[index] = _add_unconfirmed_verdict(draft, request, "the environment is in another state")
        else:
            drafts[index] = _accept_by_state(candidate, request, is_checked=is_confirmed is True)
    for index, (request, candidate, num_yes) in _ask_judges(undecided, generate).items():
        if num_yes == len(_JUDGE_PROMPTS):
            drafts[index] = _accept(candidate, request, Grade.STATED, "two judges")
        else:
            reason = f"{num_yes} of {len(_JUDGE_PROMPTS)} judges say yes"
            drafts[index] = _add_unconfirmed_verdict(drafts[index], request, reason)
    return drafts


def _ask_judges(candidates: Mapping[int, tuple[str, Draft]], generate: Generate) -> dict[int, tuple[str, Draft, int]]:
    """Return each request and candidate with the number of judges that say yes."""
    judge_requests = {
        (index, prompt): judge.build_judge_request(candidate.steps, candidate.source.tools, prompt)
        for index, (_, candidate) in candidates.items()
        for prompt in _JUDGE_PROMPTS
    }
    responses = generate_by_key(generate, judge_requests)
    return {
        index: (request, candidate, sum(_is_yes(responses[index, prompt]) for prompt in _JUDGE_PROMPTS))
        for index, (request, candidate) in candidates.items()
    }


def _only_user_step(draft: Draft) -> DraftStep | None:
    """Return the user's step of a failed episode that has exactly one."""
    if draft.grade is not Grade.FAILED or draft.rejected not in (None, "failed"):
        return None
    steps = [step for step in draft.steps if step.step.source == "user"]
    return steps[0] if len(steps) == 1 and not steps[0].step.tool_calls else None


def _build_proposal_request(draft: Draft) -> LLMRequest:
    return build_request(_TASK, _FORM, {"episode": render_transcript(draft.steps)}, max_tokens=400)


def _parse_proposal(response: str | None) -> str | StageVerdict:
    """Return the proposed request, or why there is none."""
    if response is None:
        return no_response(STAGE, _UNCHANGED)
    parsed = parse_response(response, "achieved")
    if parsed is None or not isinstance(parsed["achieved"], bool):
        return unusable_response(STAGE, response, _UNCHANGED)
    if not parsed["achieved"]:
        return StageVerdict(STAGE, "hindsight_nothing", "achieved nothing that anyone would ask for")
    request = parsed.get("request")
    if not isinstance(request, str) or not 0 < len(request.strip()) <= MAX_REQUEST_CHARACTERS or has_markup(request):
        return unusable_response(STAGE, response, _UNCHANGED)
    return request.strip()


def _replace_request(draft: Draft, user_step: DraftStep, request: str) -> Draft:
    new = replace(user_step, step=user_step.step.model_copy(update={"content": request}))
    return replace(draft, steps=tuple(new if step is user_step else step for step in draft.steps))


def _accept_by_state(candidate: Draft, request: str, *, is_checked: bool) -> Draft:
    """Accept a candidate because of the environment's state.

    The state says nothing about the agent's texts, which were about the old request. They become context.
    """
    steps = tuple(
        replace(step, weight=0.0) if step.step.source == "agent" and not step.step.tool_calls else step
        for step in candidate.steps
    )
    by, grade = ("a check of the state", Grade.VERIFIED) if is_checked else ("the tool results", Grade.STATED)
    return _accept(replace(candidate, steps=steps), request, grade, by)


def _accept(candidate: Draft, request: str, grade: Grade, by: str) -> Draft:
    verdict = StageVerdict(STAGE, "relabelled", f"confirmed by {by}: {to_one_line(request)}")
    accepted = replace(candidate, grade=grade, weight=GRADE_WEIGHTS[grade], rejected=None)
    return accepted.with_steps(candidate.steps, verdict)


def _add_unconfirmed_verdict(draft: Draft, request: str, reason: str) -> Draft:
    verdict = StageVerdict(STAGE, "hindsight_unconfirmed", f"{reason}: {to_one_line(request)}")
    return draft.with_steps(draft.steps, verdict)


def _is_yes(response: str | None) -> bool:
    judgment = parse_judgment(response, "success") if response is not None else None
    return judgment is not None and judgment.is_yes
