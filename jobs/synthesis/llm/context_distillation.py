"""Context distillation: what an agent did with notes in its system prompt is learned without them.

After Askell et al., 2021 (arXiv 2112.00861), here by plain fine-tuning on what was done: the notes are taken out of
the context, the agent's turns stay the targets. Notes on how to work become weights; facts of one case stay in the
knowledge layer: an agent that learned to state them without having been told would invent them.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from looper.jobs.synthesis.draft import Draft, Grade, Placed, StageVerdict
from looper.jobs.synthesis.llm.answer import nonsense, read_opinion, silent
from looper.jobs.synthesis.llm.prompt import question, shorten, transcript
from looper.jobs.synthesis.llm.request import Ask, LLMRequest, ask_each

STAGE = "distillation"

OPENING, CLOSING = "<notes>", "</notes>"
"""Around the notes in a system prompt."""

MOST_HINTS = 20
"""The best supported, so that the question stays short."""

_KEPT = "keeps its notes"
_NOTES = re.compile(rf"{re.escape(OPENING)}(.*?){re.escape(CLOSING)}\n?", re.DOTALL)
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


def distil(drafts: Sequence[Draft], ask: Ask, hints: Sequence[Sequence[str]] | None = None) -> list[Draft]:
    """``drafts``, those with notes without them, where a judge says that what the agent did can be learned so.

    ``hints`` are, for each, the rules that other episodes of its instance support: ways of working, whoever notes them.
    """
    without = {
        place: bare
        for place, draft in enumerate(drafts)
        if draft.rejected is None
        and draft.grade not in (Grade.FAILED, Grade.ENVIRONMENT)
        and (bare := without_notes(draft.steps)) != draft.steps
    }
    ways = hints or [()] * len(drafts)
    answers = ask_each(ask, {place: _question(drafts[place], bare, ways[place]) for place, bare in without.items()})
    return [
        _distilled(draft, without[place], answers[place]) if place in without else draft
        for place, draft in enumerate(drafts)
    ]


def without_notes(steps: tuple[Placed, ...]) -> tuple[Placed, ...]:
    """``steps`` without the marked sections of the system's; one that held nothing else is left out."""
    bare = [_bare(placed) if placed.step.source == "system" else placed for placed in steps]
    return tuple(placed for placed in bare if placed is not None)


def _bare(placed: Placed) -> Placed | None:
    content, notes = _NOTES.subn("", placed.step.content)
    if not notes:
        return placed
    content = content.strip()
    return replace(placed, step=placed.step.model_copy(update={"content": content})) if content else None


def _question(draft: Draft, bare: tuple[Placed, ...], hints: Sequence[str]) -> LLMRequest:
    notes = [
        note for placed in draft.steps if placed.step.source == "system" for note in _NOTES.findall(placed.step.content)
    ]
    record = {"notes": [shorten(note.strip(), 4_000) for note in notes], "episode": transcript(bare)}
    if hints:
        return question(f"{_TASK}{_HINTED}", _FORM, {**record, "ways": [*hints[:MOST_HINTS]]}, max_tokens=200)
    return question(_TASK, _FORM, record, max_tokens=200)


def _distilled(draft: Draft, bare: tuple[Placed, ...], answer: str | None) -> Draft:
    if answer is None:
        return draft.with_steps(draft.steps, silent(STAGE, _KEPT))
    opinion = read_opinion(answer, "learnable")
    if opinion is None:
        return draft.with_steps(draft.steps, nonsense(STAGE, answer, _KEPT))
    if not opinion.yes:
        return draft.with_steps(draft.steps, StageVerdict(STAGE, "needs_notes", opinion.why))
    return draft.with_steps(bare, StageVerdict(STAGE, "distilled", opinion.why))
