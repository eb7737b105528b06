"""Grades episodes that nobody judged. A judge reads; it does not look at the world: its yes is a stated success."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from looper.jobs.synthesis.draft import Draft, Grade, Placed, StageVerdict
from looper.jobs.synthesis.llm.answer import nonsense, read_opinion, silent
from looper.jobs.synthesis.llm.prompt import question, shorten, transcript
from looper.jobs.synthesis.llm.request import Ask, LLMRequest, ask_each
from looper.jobs.synthesis.stages.grade import WEIGHTS

STAGE = "judge"

_FORM = '{"success": true|false, "why": "<one short sentence>"}'
PLAIN = """
You judge an agent's episode of work with tools: whether, at its end, what the user asked for was done, all of it and
nothing against it. Believe the tools' answers, not the agent's words: what it claims without an answer that shows it
does not count. A question counts as done if it was answered as the tools' answers say. If you cannot tell, it is false.
"""
SCEPTICAL = """
An agent worked on a request with tools, and someone says that it succeeded. You check that. List for yourself all that
the request asks for: each thing to be done, and each value that it names. Look for the call that did it with just
these values, and for the tool's answer that shows it worked. If one is missing, if a value differs, or if the agent did
something else besides that changed the world, it did not succeed.
"""
"""To ask twice is to ask differently: the same question has the same answer."""


def grade_unlabelled(drafts: Sequence[Draft], ask: Ask) -> list[Draft]:
    """``drafts``, those that are unlabelled graded as STATED or FAILED; one rejected for that is not, or otherwise.

    One that the model does not answer for, or answers nonsense, stays as it was, with a verdict that says so.
    """
    asked = {
        place: about(draft.steps, draft.source.tools)
        for place, draft in enumerate(drafts)
        if draft.grade is Grade.UNLABELLED and draft.rejected in (None, "unlabelled")
    }
    answers = ask_each(ask, asked)
    return [_graded(draft, answers[place]) if place in answers else draft for place, draft in enumerate(drafts)]


def about(steps: Sequence[Placed], tools: str | None, task: str = PLAIN) -> LLMRequest:
    """Did the agent of ``steps`` do what the user asked for?"""
    record: dict[str, Any] = {"episode": transcript(steps)}
    if tools is not None:
        record["tools"] = shorten(tools, 2_000)
    return question(task, _FORM, record, max_tokens=200)


def _graded(draft: Draft, answer: str | None) -> Draft:
    if answer is None:
        return draft.with_steps(draft.steps, silent(STAGE, "stays unlabelled"))
    opinion = read_opinion(answer, "success")
    if opinion is None:
        return draft.with_steps(draft.steps, nonsense(STAGE, answer, "stays unlabelled"))
    if not opinion.yes:
        failed = replace(draft, grade=Grade.FAILED, weight=0.0, rejected=None)
        return failed.reject(STAGE, "failed", f"judged: {opinion.why}")
    stated = replace(draft, grade=Grade.STATED, weight=WEIGHTS[Grade.STATED], rejected=None)
    return stated.with_steps(draft.steps, StageVerdict(STAGE, "judged_success", opinion.why))
