"""Critique and revision of what the agent says, against the constitution. Tool calls never change.

After Bai et al., 2022 (arXiv 2212.08073), in two requests: what is wrong with these turns, and how should they read
instead? A turn with a tool call is left alone, including its text. ``draft_stages.py`` calls ``critique_and_revise``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from looper.jobs.synthesis.draft import Draft, Grade, StageVerdict
from looper.jobs.synthesis.llm.constitution import numbered_principles
from looper.jobs.synthesis.llm.evidence import is_grounded
from looper.jobs.synthesis.llm.prompt import build_request, render_transcript, to_one_line
from looper.jobs.synthesis.llm.request import Generate, LLMRequest, generate_by_key
from looper.jobs.synthesis.llm.response_parser import has_markup, no_response, parse_response, unusable_response
from looper.platform.settings import ModelStage

STAGE: ModelStage = "critique"
"""Name of the stage in the settings, and in verdicts about the first request."""

REVISION = "revision"
"""Name of the stage in verdicts about the second request."""

MAX_TURN_CHARACTERS = 2_000
"""Maximum number of characters of a turn that is criticized. The model must see the whole turn to rewrite it."""

_UNCHANGED = "the turns stay as they were"
_CRITIQUE = f"""
You criticise what an agent said to its user in an episode of work with tools. Look at the texts in "turns" alone, in
the light of the whole episode. Measure them by these principles:
{numbered_principles()}
Report only what really goes against one of them. Most turns are fine; where all are, "faults" is an empty list.
"""
_FAULTS = '{"faults": [{"step": <number>, "principle": <number>, "fault": "<one short sentence>"}]}'
_REVISION = f"""
You revise what an agent said to its user in an episode of work with tools. "turns" holds the texts, each with what is
wrong with it, measured by these principles:
{numbered_principles()}
Rewrite each text so that its fault is gone. Change as little as that takes; keep the language and the forms; add no
fact that is not in the episode; write text only, no tool calls.
"""
_TURNS = '{"turns": [{"step": <number>, "text": "<the whole new text>"}]}'

StepTexts = Mapping[int, str]
"""Texts by the index of their step in the source trajectory."""


def critique_and_revise(drafts: Sequence[Draft], generate: Generate) -> list[Draft]:
    """Rewrite turns of the agent in which the model finds a fault.

    Only texts that are learned from are examined, of episodes that did not fail. A revision is discarded as a whole if
    it cannot be parsed, is empty, belongs to another step, would be read as a tool call, or names something that does
    not occur in the episode.

    Args:
        drafts: Graded drafts.
        generate: Sends requests to the model.

    Returns:
        The drafts in the same order.
    """
    drafts = list(drafts)
    turns = {index: texts for index, draft in enumerate(drafts) if (texts := _learned_texts(draft))}
    critiques = {index: _build_critique_request(drafts[index], texts) for index, texts in turns.items()}
    faults: dict[int, StepTexts] = {}
    for index, response in generate_by_key(generate, critiques).items():
        found = _parse_faults(response)
        if isinstance(found, StageVerdict):
            drafts[index] = drafts[index].with_steps(drafts[index].steps, found)
        elif known := {step: fault for step, fault in found.items() if step in turns[index]}:
            faults[index] = known
    revisions = {index: _build_revision_request(drafts[index], turns[index], found) for index, found in faults.items()}
    for index, response in generate_by_key(generate, revisions).items():
        drafts[index] = _apply_revision(drafts[index], faults[index], response)
    return drafts


def _learned_texts(draft: Draft) -> StepTexts:
    """Return the turns in which the agent only speaks, and which are learned from."""
    if draft.rejected is not None or draft.grade in (Grade.FAILED, Grade.ENVIRONMENT):
        return {}
    return {
        step.source_index: step.step.content
        for step in draft.steps
        if step.step.source == "agent"
        and step.weight > 0
        and not step.step.tool_calls
        and 0 < len(step.step.content.strip()) <= MAX_TURN_CHARACTERS
    }


def _build_critique_request(draft: Draft, turns: StepTexts) -> LLMRequest:
    entries = [{"step": step, "text": text} for step, text in turns.items()]
    return build_request(_CRITIQUE, _FAULTS, {"turns": entries, "episode": render_transcript(draft.steps)})


def _build_revision_request(draft: Draft, turns: StepTexts, faults: StepTexts) -> LLMRequest:
    entries = [{"step": step, "text": turns[step], "fault": fault} for step, fault in faults.items()]
    record = {"turns": entries, "episode": render_transcript(draft.steps)}
    return build_request(_REVISION, _TURNS, record, max_tokens=1024)


def _parse_faults(response: str | None) -> StepTexts | StageVerdict:
    if response is None:
        return no_response(STAGE, _UNCHANGED)
    faults: dict[int, str] = {}
    for entry in _parse_entries(response, "faults", "fault"):
        if entry is None:
            return unusable_response(STAGE, response, _UNCHANGED)
        step, fault = entry
        faults[step] = f"{faults[step]} {fault}" if step in faults else fault
    return faults


def _apply_revision(draft: Draft, faults: StepTexts, response: str | None) -> Draft:
    texts = _parse_revision(draft, faults, response)
    if isinstance(texts, StageVerdict):
        return draft.with_steps(draft.steps, texts)
    steps = tuple(
        replace(step, step=step.step.model_copy(update={"content": texts[step.source_index]}))
        if step.source_index in texts
        else step
        for step in draft.steps
    )
    return draft.with_steps(
        steps, *(StageVerdict(REVISION, "revised", to_one_line(faults[step]), step) for step in texts)
    )


def _parse_revision(draft: Draft, faults: StepTexts, response: str | None) -> StepTexts | StageVerdict:
    """Return the new text of each changed step, or why the whole revision is discarded."""
    if response is None:
        return no_response(REVISION, _UNCHANGED)
    texts: dict[int, str] = {}
    for entry in _parse_entries(response, "turns", "text"):
        if entry is None or entry[0] not in faults or entry[0] in texts or has_markup(entry[1]):
            return unusable_response(REVISION, response, _UNCHANGED)
        step, text = entry
        if not is_grounded(text, draft.steps):
            detail = f"{to_one_line(text)!r} names something that does not occur in the episode"
            return StageVerdict(REVISION, "revision_invents", detail, step)
        texts[step] = text
    return texts or unusable_response(REVISION, response, _UNCHANGED)


def _parse_entries(response: str, name: str, member: str) -> Iterator[tuple[int, str] | None]:
    """Yield the list ``name`` of a response as pairs of step and text. None for an entry or list of another form."""
    parsed = parse_response(response, name)
    entries = parsed[name] if parsed is not None else None
    if not isinstance(entries, list):
        yield None
        return
    for entry in entries:
        step, text = (entry.get("step"), entry.get(member)) if isinstance(entry, dict) else (None, None)
        if isinstance(step, int) and isinstance(text, str) and text.strip():
            yield step, text.strip()
        else:
            yield None
