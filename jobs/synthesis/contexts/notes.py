"""Notes in the prompts of examples: found, removed and added, in the place where an agent has them.

Notes are what an agent's knowledge layer puts into its prompt: house rules, a memory file, notes of the day. They stand
between ``NOTES_START`` and ``NOTES_END`` in a system turn. ``render_contexts.py`` and the stage of context distillation
use these functions.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from looper.platform.domain.example import Example, Turn

NOTES_START, NOTES_END = "<notes>", "</notes>"
"""Tags around the notes in a system prompt."""

# No tag opens within notes, so that a prompt of nothing but opening tags is read once, and not once for each of them.
NOTES = re.compile(rf"{NOTES_START}((?:(?!{NOTES_START}).)*?){NOTES_END}\n?", re.DOTALL)
"""Matches notes with their tags."""


def wrap_notes(notes: str) -> str:
    """Return notes between their tags."""
    return f"{NOTES_START}\n{notes}\n{NOTES_END}"


def strip_notes(prompt: str) -> str:
    """Return a system prompt without its notes. One that has none stays as it is."""
    without, count = NOTES.subn("", prompt)
    return without.strip() if count else prompt


def find_notes(turns: Iterable[Turn]) -> str:
    """Return the notes in the system turns of an example, without their tags.

    Args:
        turns: Turns of an example.

    Returns:
        The notes, or an empty text.
    """
    found = (note for turn in turns if turn.role == "system" for note in NOTES.findall(turn.content))
    return "\n".join(note.strip() for note in found)


def find_instance_notes(examples: Iterable[Example]) -> str:
    """Return the notes that an instance has.

    Args:
        examples: Examples of the instance.

    Returns:
        The notes that most of its prompts have, of those that have any. An empty text if none has.
    """
    counts = Counter(notes for example in examples if (notes := find_notes(example.turns)))
    return max(counts, key=lambda notes: (counts[notes], notes), default="")


def remove_notes(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Remove the notes from system turns.

    Args:
        turns: Turns of an example.

    Returns:
        The turns. A system turn that had nothing else is left out.
    """
    without = (
        turn.model_copy(update={"content": strip_notes(turn.content)}) if turn.role == "system" else turn
        for turn in turns
    )
    return tuple(turn for turn in without if turn.content or turn.role != "system")


def add_notes(turns: Sequence[Turn], notes: str) -> tuple[Turn, ...]:
    """Put notes at the end of the first system turn, between their tags.

    Args:
        turns: Turns of an example without notes.
        notes: The notes.

    Returns:
        The turns. An example without a system turn gets one.
    """
    return add_to_system(turns, wrap_notes(notes))


def add_to_system(turns: Sequence[Turn], text: str) -> tuple[Turn, ...]:
    """Put a text at the end of the first system turn.

    Args:
        turns: Turns of an example.
        text: The text.

    Returns:
        The turns. An example without a system turn gets one.
    """
    if not turns or turns[0].role != "system":
        return (Turn(role="system", content=text), *turns)
    first, *others = turns
    return (first.model_copy(update={"content": f"{first.content}\n{text}"}), *others)


def add_to_request(turns: Sequence[Turn], text: str) -> tuple[Turn, ...]:
    """Put a text before the first message of the user.

    Args:
        turns: Turns of an example.
        text: The text.

    Returns:
        The turns; unchanged if the user says nothing.
    """
    first = next((index for index, turn in enumerate(turns) if turn.role == "user"), None)
    if first is None:
        return tuple(turns)
    request = turns[first].model_copy(update={"content": f"{text}\n{turns[first].content}"})
    return (*turns[:first], request, *turns[first + 1 :])
