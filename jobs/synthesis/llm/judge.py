"""Grades episodes without a label, by asking a model.

The judge reads the episode only. It cannot look at the state of the environment, so its yes is a stated success.
``draft_stages.py`` calls ``grade_unlabeled``; hindsight uses the judge's prompts.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from looper.jobs.synthesis.draft import Draft, DraftStep, Grade, StageVerdict
from looper.jobs.synthesis.llm.prompt import build_request, render_transcript, shorten
from looper.jobs.synthesis.llm.request import Generate, LLMRequest, generate_by_key
from looper.jobs.synthesis.llm.response_parser import no_response, parse_judgment, unusable_response
from looper.jobs.synthesis.stages.grade import GRADE_WEIGHTS
from looper.platform.settings import ModelStage

STAGE: ModelStage = "judge"
"""Name of the stage in the settings and in verdicts."""

_UNCHANGED = "the draft stays unlabeled"
_FORM = '{"success": true|false, "why": "<one short sentence>"}'
JUDGE_PROMPT = """
You judge an agent's episode of work with tools: whether, at its end, what the user asked for was done, all of it and
nothing against it. Believe the tools' answers, not the agent's words: what it claims without an answer that shows it
does not count. A question counts as done if it was answered as the tools' answers say. If you cannot tell, it is false.
"""
"""The first question, in a neutral form."""

SKEPTICAL_PROMPT = """
An agent worked on a request with tools, and someone says that it succeeded. You check that. List for yourself all that
the request asks for: each thing to be done, and each value that it names. Look for the call that did it with just
these values, and for the tool's answer that shows it worked. If one is missing, if a value differs, or if the agent did
something else besides that changed the world, it did not succeed.
"""
"""A second question in other words. Greedy decoding would answer the same question in the same way."""


def grade_unlabeled(drafts: Sequence[Draft], generate: Generate) -> list[Draft]:
    """Grade unlabeled drafts as STATED or FAILED.

    A draft that was rejected because it has no label is accepted, or rejected as failed. Without a usable response a
    draft stays as it was, with a verdict that says so.

    Args:
        drafts: Graded drafts. Those with other grades are not changed.
        generate: Sends requests to the model.

    Returns:
        The drafts in the same order.
    """
    requests = {
        index: build_judge_request(draft.steps, draft.source.tools)
        for index, draft in enumerate(drafts)
        if draft.grade is Grade.UNLABELED and draft.rejected in (None, "unlabelled")
    }
    responses = generate_by_key(generate, requests)
    return [
        _apply_judgment(draft, responses[index]) if index in responses else draft for index, draft in enumerate(drafts)
    ]


def build_judge_request(steps: Sequence[DraftStep], tools: str | None, task: str = JUDGE_PROMPT) -> LLMRequest:
    """Build the request that asks whether the agent did what the user asked for.

    Args:
        steps: Steps of the episode.
        tools: Descriptions of the tools as JSON text, or None if they are unknown.
        task: Instructions for the judge.

    Returns:
        The request.
    """
    record: dict[str, Any] = {"episode": render_transcript(steps)}
    if tools is not None:
        record["tools"] = shorten(tools, 2_000)
    return build_request(task, _FORM, record, max_tokens=200)


def _apply_judgment(draft: Draft, response: str | None) -> Draft:
    if response is None:
        return draft.with_steps(draft.steps, no_response(STAGE, _UNCHANGED))
    judgment = parse_judgment(response, "success")
    if judgment is None:
        return draft.with_steps(draft.steps, unusable_response(STAGE, response, _UNCHANGED))
    if not judgment.is_yes:
        failed = replace(draft, grade=Grade.FAILED, weight=0.0, rejected=None)
        return failed.reject(STAGE, "failed", f"judged: {judgment.reason}")
    stated = replace(draft, grade=Grade.STATED, weight=GRADE_WEIGHTS[Grade.STATED], rejected=None)
    return stated.with_steps(draft.steps, StageVerdict(STAGE, "judged_success", judgment.reason))
