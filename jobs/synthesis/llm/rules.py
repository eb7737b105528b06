"""Rules and workflows that several episodes of an instance support, as notes for its knowledge layer and as hints.

After ExpeL (Zhao et al., 2023, arXiv 2308.10144) and Agent Workflow Memory (Wang et al., 2024, arXiv 2409.07429): a
model compares successful and failed episodes. A note that only one episode supports may be an accident and is dropped.
``instance_files.py`` calls ``extract_notes``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from looper.jobs.synthesis.draft import Draft, Grade, StageVerdict
from looper.jobs.synthesis.llm.novelty import rouge_l, split_words
from looper.jobs.synthesis.llm.prompt import TRANSCRIPT_CHARACTERS, build_request, render_transcript
from looper.jobs.synthesis.llm.request import Generate, LLMRequest, generate_by_key
from looper.jobs.synthesis.llm.response_parser import has_markup, no_response, parse_response, unusable_response
from looper.platform.settings import ModelStage

STAGE: ModelStage = "rules"
"""Name of the stage in the settings and in verdicts."""

EPISODES_PER_REQUEST = 6
"""Number of episodes that are compared in one request."""

MIN_SUPPORTING_EPISODES = 2
"""Minimum number of episodes that must support a note."""

SAME_NOTE_ROUGE_L = 0.7
"""ROUGE-L from which notes of two requests count as one note, which has the supporters of both."""

MAX_NOTE_CHARACTERS = 400
"""Maximum number of characters of a note."""

NoteKind = Literal["rule", "workflow"]
NOTE_KINDS: tuple[NoteKind, ...] = get_args(NoteKind)

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
    """One piece of knowledge about how to work at an instance. The fields are those of ``rules.json``."""

    kind: NoteKind
    """A rule or a workflow."""
    text: str
    """One line of text."""
    trajectories: tuple[str, ...]
    """Ids of the trajectories that support it, sorted."""


def extract_notes(drafts: Sequence[Draft], generate: Generate) -> tuple[list[Note], list[StageVerdict]]:
    """Extract the notes that some drafts support.

    Unlabeled episodes, and episodes that a broken tool ended, do not show what is right. Duplicates are left out too,
    because they would count as support by several episodes.

    Args:
        drafts: Graded drafts of one instance. Tenants do not share what their agents found out.
        generate: Sends requests to the model.

    Returns:
        The notes, best supported first, and the reasons why others were dropped.
    """
    usable = sorted((draft for draft in drafts if _is_usable(draft)), key=lambda draft: draft.source.id)
    groups = [usable[start : start + EPISODES_PER_REQUEST] for start in range(0, len(usable), EPISODES_PER_REQUEST)]
    has_enough = len(usable) >= MIN_SUPPORTING_EPISODES
    requests = {number: _build_request(group) for number, group in enumerate(groups) if has_enough}
    notes: list[Note] = []
    verdicts: list[StageVerdict] = []
    for number, response in generate_by_key(generate, requests).items():
        for found in _parse_notes(response, groups[number]):
            if isinstance(found, StageVerdict):
                verdicts.append(found)
            else:
                _add_or_merge(notes, found)
    supported = [note for note in notes if len(note.trajectories) >= MIN_SUPPORTING_EPISODES]
    verdicts += [
        StageVerdict(STAGE, "unsupported", note.text)
        for note in notes
        if len(note.trajectories) < MIN_SUPPORTING_EPISODES
    ]
    return sorted(supported, key=lambda note: (-len(note.trajectories), note.kind, note.text)), verdicts


def _is_usable(draft: Draft) -> bool:
    is_graded = draft.grade not in (None, Grade.UNLABELED, Grade.ENVIRONMENT)
    return is_graded and draft.rejected in (None, "failed")


def _build_request(group: Sequence[Draft]) -> LLMRequest:
    """Build the request for a group of episodes. They get short ids, which a model copies without mistakes."""
    episodes = [
        {
            "id": _short_id(index),
            "grade": str(draft.grade),
            "steps": render_transcript(draft.steps, TRANSCRIPT_CHARACTERS // len(group)),
        }
        for index, draft in enumerate(group)
    ]
    return build_request(_TASK, _FORM, {"episodes": episodes}, max_tokens=1024)


def _short_id(index: int) -> str:
    return f"e{index + 1}"


def _parse_notes(response: str | None, group: Sequence[Draft]) -> Iterator[Note | StageVerdict]:
    """Yield the notes of a response, and a verdict for each entry that is no note."""
    if response is None:
        yield no_response(STAGE)
        return
    parsed = parse_response(response, "notes")
    entries = parsed["notes"] if parsed is not None else None
    if not isinstance(entries, list):
        yield unusable_response(STAGE, response)
        return
    trajectory_ids = {_short_id(index): draft.source.id for index, draft in enumerate(group)}
    for entry in entries:
        yield _parse_note(entry, trajectory_ids) or unusable_response(STAGE, str(entry))


def _parse_note(entry: Any, trajectory_ids: Mapping[str, str]) -> Note | None:
    if not isinstance(entry, dict):
        return None
    kind = next((kind for kind in NOTE_KINDS if kind == entry.get("kind")), None)
    text, episodes = entry.get("text"), entry.get("episodes")
    if kind is None or not isinstance(text, str) or not isinstance(episodes, list):
        return None
    line = " ".join(text.split())
    if not 0 < len(line) <= MAX_NOTE_CHARACTERS or has_markup(line):  # hints are put into prompts, where markup counts
        return None
    supporters = {trajectory_ids[id] for id in episodes if isinstance(id, str) and id in trajectory_ids}
    return Note(kind, line, tuple(sorted(supporters)))


def _add_or_merge(notes: list[Note], new: Note) -> None:
    """Append a note, or add its supporters to a note that says the same."""
    for index, note in enumerate(notes):
        if note.kind == new.kind and rouge_l(split_words(note.text), split_words(new.text)) >= SAME_NOTE_ROUGE_L:
            notes[index] = Note(note.kind, note.text, tuple(sorted({*note.trajectories, *new.trajectories})))
            return
    notes.append(new)
