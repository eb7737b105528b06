"""Hindsight: a failed episode is often a good one of another task. What it did achieve becomes what was asked for.

After Andrychowicz et al., 2017 (arXiv 1707.01495), whose goals are states; ours are sentences, which a model writes and
may get wrong. So a new request stands only if the world confirms it, or if two judges do who were asked differently.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from looper.jobs.synthesis.draft import Draft, Grade, Placed, StageVerdict
from looper.jobs.synthesis.llm import judge
from looper.jobs.synthesis.llm.answer import has_markup, nonsense, read_object, read_opinion, silent
from looper.jobs.synthesis.llm.evidence import shows
from looper.jobs.synthesis.llm.prompt import in_one_line, question, transcript
from looper.jobs.synthesis.llm.request import Ask, LLMRequest, ask_each
from looper.jobs.synthesis.stages.grade import WEIGHTS

STAGE = "hindsight"

LONGEST = 1_000
"""Characters of a new request."""

Confirm = Callable[[Draft, str], bool | None]
"""Whether the world at the end of an episode is as a request wants it; None if that is not known."""

_KEPT = "stays failed"
_TASK = """
An agent was asked for something, worked at it with tools, and failed. Find out what it did achieve all the same: what
it changed in the world or found out, as the tools' answers show. Then write the request to which this very episode is
the right answer, as the user would have put it: in the user's language and manner, with every value that the agent's
calls needed, asking for all that it changed and for nothing that it did not do.
If it achieved nothing that anyone would ask for, "achieved" is false.
"""
_FORM = '{"achieved": true, "request": "<the request>"} or {"achieved": false}'


def relabel(drafts: Sequence[Draft], ask: Ask, confirm: Confirm | None = None) -> list[Draft]:
    """``drafts``, failed ones with the request that they do fulfil, where it could be confirmed.

    ``confirm`` knows best, both ways. Where it does not know, the observations may show a change that matches the
    request; else two judges must both say yes. Episodes with several requests of the user are left as they are: later
    ones go on from what was asked first.
    """
    drafts = list(drafts)
    chosen = {place: user for place, draft in enumerate(drafts) if (user := _only_request(draft)) is not None}
    answers = ask_each(ask, {place: _propose(drafts[place]) for place in chosen})
    doubtful: dict[int, tuple[str, Draft]] = {}
    for place, answer in answers.items():
        draft, request = drafts[place], _read_request(answer)
        if isinstance(request, StageVerdict):
            drafts[place] = draft.with_steps(draft.steps, request)
            continue
        candidate = _asked_for(draft, chosen[place], request)
        known = confirm(draft, request) if confirm else None
        if known is None and not shows(draft.steps, request):
            doubtful[place] = request, candidate
        elif known is False:
            drafts[place] = _unconfirmed(draft, request, "the state is another")
        else:
            drafts[place] = _by_state(candidate, request, checked=known is True)
    opinions = ask_each(
        ask,
        {
            (place, task): judge.about(candidate.steps, candidate.source.tools, task)
            for place, (_, candidate) in doubtful.items()
            for task in (judge.PLAIN, judge.SCEPTICAL)
        },
    )
    for place, (request, candidate) in doubtful.items():
        said = [_yes(opinions[place, task]) for task in (judge.PLAIN, judge.SCEPTICAL)]
        if all(said):
            drafts[place] = _relabelled(candidate, request, Grade.STATED, "two judges")
        else:
            drafts[place] = _unconfirmed(drafts[place], request, f"{sum(said)} of 2 judges say yes")
    return drafts


def _only_request(draft: Draft) -> Placed | None:
    """The user's step in a failed episode that has one."""
    if draft.grade is not Grade.FAILED or draft.rejected not in (None, "failed"):
        return None
    asked = [placed for placed in draft.steps if placed.step.source == "user"]
    return asked[0] if len(asked) == 1 and not asked[0].step.tool_calls else None


def _propose(draft: Draft) -> LLMRequest:
    return question(_TASK, _FORM, {"episode": transcript(draft.steps)}, max_tokens=400)


def _read_request(answer: str | None) -> str | StageVerdict:
    if answer is None:
        return silent(STAGE, _KEPT)
    read = read_object(answer, "achieved")
    if read is None or not isinstance(read["achieved"], bool):
        return nonsense(STAGE, answer, _KEPT)
    if not read["achieved"]:
        return StageVerdict(STAGE, "hindsight_nothing", "achieved nothing that anyone would ask for")
    request = read.get("request")
    if not isinstance(request, str) or not 0 < len(request.strip()) <= LONGEST or has_markup(request):
        return nonsense(STAGE, answer, _KEPT)
    return request.strip()


def _asked_for(draft: Draft, user: Placed, request: str) -> Draft:
    """``draft`` as if the user had asked for ``request``."""
    new = replace(user, step=user.step.model_copy(update={"content": request}))
    return replace(draft, steps=tuple(new if placed is user else placed for placed in draft.steps))


def _by_state(candidate: Draft, request: str, *, checked: bool) -> Draft:
    """The state says nothing about the agent's words, which were of the old request: they become context."""
    steps = tuple(
        replace(placed, weight=0.0) if placed.step.source == "agent" and not placed.step.tool_calls else placed
        for placed in candidate.steps
    )
    by, grade = ("a check of the state", Grade.VERIFIED) if checked else ("the observations", Grade.STATED)
    return _relabelled(replace(candidate, steps=steps), request, grade, by)


def _relabelled(candidate: Draft, request: str, grade: Grade, by: str) -> Draft:
    verdict = StageVerdict(STAGE, "relabelled", f"confirmed by {by}: {in_one_line(request)}")
    kept = replace(candidate, grade=grade, weight=WEIGHTS[grade], rejected=None)
    return kept.with_steps(candidate.steps, verdict)


def _unconfirmed(draft: Draft, request: str, why: str) -> Draft:
    return draft.with_steps(draft.steps, StageVerdict(STAGE, "hindsight_unconfirmed", f"{why}: {in_one_line(request)}"))


def _yes(answer: str | None) -> bool:
    opinion = read_opinion(answer, "success") if answer is not None else None
    return opinion is not None and opinion.yes
