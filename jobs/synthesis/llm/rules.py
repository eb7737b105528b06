"""Rules and workflows that several episodes of an instance agree on, as notes: for its knowledge layer, and as hints.

After ExpeL (Zhao et al., 2023, arXiv 2308.10144) and Agent Workflow Memory (Wang et al., 2024, arXiv 2409.07429): a
model compares episodes that went well with ones that did not. What only one supports is an accident, and is dropped.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from looper.jobs.synthesis.draft import Draft, Grade, StageVerdict
from looper.jobs.synthesis.llm.answer import has_markup, nonsense, read_object, silent
from looper.jobs.synthesis.llm.novelty import rouge_l, words
from looper.jobs.synthesis.llm.prompt import BUDGET, question, transcript
from looper.jobs.synthesis.llm.request import Ask, LLMRequest, ask_each

STAGE = "rules"

TOGETHER = 6
"""Episodes that are compared in one question."""

LEAST = 2
"""Trajectories that must support a note."""

ALIKE = 0.7
"""ROUGE-L from which notes of two questions count as one, their supporters together."""

LONGEST = 400
"""Characters of a note."""

Kind = Literal["rule", "workflow"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_TASK = """
Compare episodes of one agent's work with tools. Each has an "id", and a "grade" that says how it ended. Write down what
an agent at this place should know that is not obvious:
- rules: what the place wants or refuses, how a tool wants its arguments, how to get out of an error;
- workflows: for a kind of request, which tools to call in which order.
Write in general words, without names, numbers or dates of a single case. For each name the ids of all episodes that
support it, by following it and succeeding or by going against it and failing. What a single episode shows is no rule.
"""
_FORM = '{"notes": [{"kind": "rule"|"workflow", "text": "<one or two sentences>", "episodes": ["<id>", ...]}]}'


@dataclass(frozen=True)
class Note:
    """One line of what is known about working at a place."""

    kind: Kind
    text: str
    trajectories: tuple[str, ...]
    """Ids of those that support it, sorted."""


def extract(drafts: Sequence[Draft], ask: Ask) -> tuple[list[Note], list[StageVerdict]]:
    """The notes that ``drafts`` support, best supported first, and what was dropped and why.

    ``drafts`` are of one instance: what one tenant's agents found out is no other's. Unlabelled ones, and ones that an
    environment broke, say nothing about what is right; repeated ones would support what only one does.
    """
    telling = sorted((draft for draft in drafts if _tells(draft)), key=lambda draft: draft.source.id)
    groups = [telling[start : start + TOGETHER] for start in range(0, len(telling), TOGETHER)]
    asked = {place: _question(group) for place, group in enumerate(groups) if len(telling) >= LEAST}
    notes: list[Note] = []
    verdicts: list[StageVerdict] = []
    for place, answer in ask_each(ask, asked).items():
        for found in _read(answer, groups[place]):
            if isinstance(found, StageVerdict):
                verdicts.append(found)
            else:
                _add(notes, found)
    kept = [note for note in notes if len(note.trajectories) >= LEAST]
    verdicts += [StageVerdict(STAGE, "unsupported", note.text) for note in notes if len(note.trajectories) < LEAST]
    return sorted(kept, key=lambda note: (-len(note.trajectories), note.kind, note.text)), verdicts


def _tells(draft: Draft) -> bool:
    graded = draft.grade not in (None, Grade.UNLABELLED, Grade.ENVIRONMENT)
    return graded and draft.rejected in (None, "failed")


def _question(group: Sequence[Draft]) -> LLMRequest:
    """Episodes have short ids here, which a model copies without a slip."""
    episodes = [
        {"id": _id(place), "grade": str(draft.grade), "steps": transcript(draft.steps, BUDGET // len(group))}
        for place, draft in enumerate(group)
    ]
    return question(_TASK, _FORM, {"episodes": episodes}, max_tokens=1024)


def _id(place: int) -> str:
    return f"e{place + 1}"


def _read(answer: str | None, group: Sequence[Draft]) -> Iterator[Note | StageVerdict]:
    if answer is None:
        yield silent(STAGE)
        return
    read = read_object(answer, "notes")
    entries = read["notes"] if read is not None else None
    if not isinstance(entries, list):
        yield nonsense(STAGE, answer)
        return
    ids = {_id(place): draft.source.id for place, draft in enumerate(group)}
    for entry in entries:
        yield _note(entry, ids) or nonsense(STAGE, str(entry))


def _note(entry: Any, ids: dict[str, str]) -> Note | None:
    if not isinstance(entry, dict):
        return None
    kind = next((kind for kind in KINDS if kind == entry.get("kind")), None)
    text, episodes = entry.get("text"), entry.get("episodes")
    if kind is None or not isinstance(text, str) or not isinstance(episodes, list):
        return None
    line = " ".join(text.split())
    if not 0 < len(line) <= LONGEST or has_markup(line):  # hints go into system prompts, where markup would count
        return None
    supporters = {ids[each] for each in episodes if isinstance(each, str) and each in ids}
    return Note(kind, line, tuple(sorted(supporters)))


def _add(notes: list[Note], new: Note) -> None:
    """Beside the others, or into the one that says the same."""
    for place, note in enumerate(notes):
        if note.kind == new.kind and rouge_l(words(note.text), words(new.text)) >= ALIKE:
            notes[place] = Note(note.kind, note.text, tuple(sorted({*note.trajectories, *new.trajectories})))
            return
    notes.append(new)
