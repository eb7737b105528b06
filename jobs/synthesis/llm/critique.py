"""Critique and revision of what the agent says, against the constitution. What it does is never touched.

After Bai et al., 2022 (arXiv 2212.08073), in two questions: what is wrong with these turns, and how should they read
instead? A turn with a tool call is left alone, its text included.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from looper.jobs.synthesis.draft import Draft, Grade, StageVerdict
from looper.jobs.synthesis.llm.answer import has_markup, nonsense, read_object, silent
from looper.jobs.synthesis.llm.constitution import numbered
from looper.jobs.synthesis.llm.evidence import grounded
from looper.jobs.synthesis.llm.prompt import in_one_line, question, transcript
from looper.jobs.synthesis.llm.request import Ask, LLMRequest, ask_each

CRITIQUE = "critique"
REVISION = "revision"

LONGEST = 2_000
"""Characters of a turn that is looked at: the model must see all that it is to write anew."""

_KEPT = "kept as it was"
_CRITIQUE = f"""
You criticise what an agent said to its user in an episode of work with tools. Look at the texts in "turns" alone, in
the light of the whole episode. Measure them by these principles:
{numbered()}
Report only what really goes against one of them. Most turns are fine; where all are, "faults" is an empty list.
"""
_FAULTS = '{"faults": [{"step": <number>, "principle": <number>, "fault": "<one short sentence>"}]}'
_REVISION = f"""
You revise what an agent said to its user in an episode of work with tools. "turns" holds the texts, each with what is
wrong with it, measured by these principles:
{numbered()}
Rewrite each text so that its fault is gone. Change as little as that takes; keep the language and the forms; add no
fact that is not in the episode; write text only, no tool calls.
"""
_TURNS = '{"turns": [{"step": <number>, "text": "<the whole new text>"}]}'

Texts = Mapping[int, str]
"""By the place of the step they belong to."""


def revise(drafts: Sequence[Draft], ask: Ask) -> list[Draft]:
    """``drafts``, with better words where the model finds fault with the agent's.

    Looked at are texts that are learned, of episodes that did not fail. A revision that cannot be read, is empty, is of
    another step, would be read as a tool call, or names something that the episode does not, is discarded as a whole.
    """
    drafts = list(drafts)
    said = {place: turns for place, draft in enumerate(drafts) if (turns := _said(draft))}
    found: dict[int, Texts] = {}
    for place, answer in ask_each(
        ask, {place: _critique(drafts[place], turns) for place, turns in said.items()}
    ).items():
        faults = _read_faults(answer)
        if isinstance(faults, StageVerdict):
            drafts[place] = drafts[place].with_steps(drafts[place].steps, faults)
        elif faults := {step: fault for step, fault in faults.items() if step in said[place]}:
            found[place] = faults
    revisions = {place: _revision(drafts[place], said[place], faults) for place, faults in found.items()}
    for place, answer in ask_each(ask, revisions).items():
        drafts[place] = _revised(drafts[place], found[place], answer)
    return drafts


def _said(draft: Draft) -> Texts:
    """Where the agent only speaks, and is learned from."""
    if draft.rejected is not None or draft.grade in (Grade.FAILED, Grade.ENVIRONMENT):
        return {}
    return {
        placed.place: placed.step.content
        for placed in draft.steps
        if placed.step.source == "agent"
        and placed.weight > 0
        and not placed.step.tool_calls
        and 0 < len(placed.step.content.strip()) <= LONGEST
    }


def _critique(draft: Draft, said: Texts) -> LLMRequest:
    turns = [{"step": step, "text": text} for step, text in said.items()]
    return question(_CRITIQUE, _FAULTS, {"turns": turns, "episode": transcript(draft.steps)})


def _revision(draft: Draft, said: Texts, faults: Texts) -> LLMRequest:
    turns = [{"step": step, "text": said[step], "fault": fault} for step, fault in faults.items()]
    return question(_REVISION, _TURNS, {"turns": turns, "episode": transcript(draft.steps)}, max_tokens=1024)


def _read_faults(answer: str | None) -> Texts | StageVerdict:
    if answer is None:
        return silent(CRITIQUE, _KEPT)
    faults: dict[int, str] = {}
    for entry in _entries(answer, "faults", "fault"):
        if entry is None:
            return nonsense(CRITIQUE, answer, _KEPT)
        step, fault = entry
        faults[step] = f"{faults[step]} {fault}" if step in faults else fault
    return faults


def _revised(draft: Draft, faults: Texts, answer: str | None) -> Draft:
    texts = _read_texts(draft, faults, answer)
    if isinstance(texts, StageVerdict):
        return draft.with_steps(draft.steps, texts)
    steps = tuple(
        replace(placed, step=placed.step.model_copy(update={"content": texts[placed.place]}))
        if placed.place in texts
        else placed
        for placed in draft.steps
    )
    return draft.with_steps(
        steps, *(StageVerdict(REVISION, "revised", in_one_line(faults[step]), step) for step in texts)
    )


def _read_texts(draft: Draft, faults: Texts, answer: str | None) -> Texts | StageVerdict:
    """The new text of each step that changes, or why the whole revision is discarded."""
    if answer is None:
        return silent(REVISION, _KEPT)
    texts: dict[int, str] = {}
    for entry in _entries(answer, "turns", "text"):
        if entry is None or entry[0] not in faults or entry[0] in texts or has_markup(entry[1]):
            return nonsense(REVISION, answer, _KEPT)
        step, text = entry
        if not grounded(text, draft.steps):
            return StageVerdict(
                REVISION, "revision_invents", f"{in_one_line(text)!r} names what the episode does not", step
            )
        texts[step] = text
    return texts or nonsense(REVISION, answer, _KEPT)


def _entries(answer: str, name: str, member: str) -> Iterator[tuple[int, str] | None]:
    """The list ``name`` of an answer as pairs of a step and a text; None for whatever is no such pair, or no list."""
    read = read_object(answer, name)
    entries = read[name] if read is not None else None
    if not isinstance(entries, list):
        yield None
        return
    for entry in entries:
        step, text = (entry.get("step"), entry.get(member)) if isinstance(entry, dict) else (None, None)
        if isinstance(step, int) and isinstance(text, str) and text.strip():
            yield step, text.strip()
        else:
            yield None
