"""Context distillation: the model learns to do without notes what an agent did with notes in its system prompt.

After Askell et al., 2021 (arXiv 2112.00861), here by plain fine-tuning on the episode: the notes are removed from the
context, and the agent's turns stay the targets. Notes on how to work become weights. Facts of a single case must stay
in the knowledge layer: an agent that learned to state them without having been told would invent them.

``draft_stages.py`` calls ``distill_context``.
"""

from collections.abc import Sequence
from dataclasses import replace

from looper.jobs.synthesis.contexts.notes import NOTES, strip_notes
from looper.jobs.synthesis.draft import Draft, DraftStep, Grade, StageVerdict
from looper.jobs.synthesis.llm.prompt import build_request, render_transcript, shorten
from looper.jobs.synthesis.llm.request import Generate, LLMRequest, generate_by_key
from looper.jobs.synthesis.llm.response_parser import no_response, parse_judgment, unusable_response
from looper.platform.settings import ModelStage

STAGE: ModelStage = "distillation"
"""Name of the stage in the settings and in verdicts."""

MAX_HINTS = 20
"""Maximum number of hints in a request, which keeps it short. The best supported ones are used."""

_UNCHANGED = "the notes stay"
_TASK = """
An agent worked at "episode" with "notes" in its instructions, which "episode" does not show. It is to learn to do the
same without them. That works for ways of working that hold for many requests: which tool, in which order, which form,
which rule. It does not work for facts of a case: a name, number, date or text that the agent uses, that stands in the
notes, and that follows neither from the request nor from a tool's answer.
Is all that the agent does here either determined by the request and the tools' answers, or a way of working?
"""
_HINTED = """
"ways" lists what several other episodes at this place agree on: what the notes say of that is a way of working.
"""
_FORM = '{"learnable": true|false, "why": "<one short sentence>"}'


def distill_context(
    drafts: Sequence[Draft], generate: Generate, hints: Sequence[Sequence[str]] | None = None
) -> list[Draft]:
    """Remove the notes from drafts whose behavior can be learned without them, as a judge says.

    Args:
        drafts: Graded drafts. Failed and rejected ones, and those without notes, are not changed.
        generate: Sends requests to the model.
        hints: For each draft, the rules that other episodes of its instance support. These are ways of working, even
            if the notes contain them.

    Returns:
        The drafts in the same order.
    """
    stripped = {
        index: steps
        for index, draft in enumerate(drafts)
        if draft.rejected is None
        and draft.grade not in (Grade.FAILED, Grade.ENVIRONMENT)
        and (steps := remove_notes(draft.steps)) != draft.steps
    }
    hints = hints or [()] * len(drafts)
    requests = {index: _build_request(drafts[index], steps, hints[index]) for index, steps in stripped.items()}
    responses = generate_by_key(generate, requests)
    return [
        _apply_judgment(draft, stripped[index], responses[index]) if index in stripped else draft
        for index, draft in enumerate(drafts)
    ]


def remove_notes(steps: tuple[DraftStep, ...]) -> tuple[DraftStep, ...]:
    """Remove the tagged notes from system prompts.

    Args:
        steps: Steps of a draft.

    Returns:
        The steps without notes. A system prompt that contained nothing else is left out.
    """
    stripped = [_strip_notes(step) if step.step.source == "system" else step for step in steps]
    return tuple(step for step in stripped if step is not None)


def _strip_notes(draft_step: DraftStep) -> DraftStep | None:
    content = strip_notes(draft_step.step.content)
    if content == draft_step.step.content:
        return draft_step
    return replace(draft_step, step=draft_step.step.model_copy(update={"content": content})) if content else None


def _build_request(draft: Draft, stripped: tuple[DraftStep, ...], hints: Sequence[str]) -> LLMRequest:
    notes = [note for step in draft.steps if step.step.source == "system" for note in NOTES.findall(step.step.content)]
    record = {"notes": [shorten(note.strip(), 4_000) for note in notes], "episode": render_transcript(stripped)}
    if hints:
        return build_request(f"{_TASK}{_HINTED}", _FORM, {**record, "ways": [*hints[:MAX_HINTS]]}, max_tokens=200)
    return build_request(_TASK, _FORM, record, max_tokens=200)


def _apply_judgment(draft: Draft, stripped: tuple[DraftStep, ...], response: str | None) -> Draft:
    if response is None:
        return draft.with_steps(draft.steps, no_response(STAGE, _UNCHANGED))
    judgment = parse_judgment(response, "learnable")
    if judgment is None:
        return draft.with_steps(draft.steps, unusable_response(STAGE, response, _UNCHANGED))
    if not judgment.is_yes:
        return draft.with_steps(draft.steps, StageVerdict(STAGE, "needs_notes", judgment.reason))
    return draft.with_steps(stripped, StageVerdict(STAGE, "distilled", judgment.reason))
