"""The positions of known people's names in a text. Each word is searched by itself, as people use any of them.

A word counts as a name only beside another word of a name if it is also an ordinary word (``Will``, ``Long``), has two
letters, or is in lower case. So ``mia_li_3668`` is found, and ``Li-ion`` and ``a long way`` are not.
``known_values.py`` and ``replacement_plan.py`` call this module.
"""

import re
from collections.abc import Collection, Iterator
from itertools import pairwise
from typing import NamedTuple

from looper.jobs.synthesis.sensitive.word_lists import AMBIGUOUS_NAME_WORDS, NAME_PARTICLES, lower_same_length

WORD = re.compile(r"[^\W\d_]+")
_NAME_SEPARATOR = re.compile(r"[ \t]{1,2}|, ?|[._-]|[ ][^\W\d_]\.? ")
_BEFORE_NAME = re.compile(
    r"(?:\b(?:Hi|Hello|Hey|Dear|Thanks|Thank you|Welcome|Sorry|Hola|Gracias|Mr|Mrs|Ms|Dr|name is|I am|I'm|llamo|"
    r"passenger|customer|guest|patient)[.,]?:? ?)$",
    re.IGNORECASE,
)
"""Words right before a name: a greeting, a title or an introduction."""

_JOINS_BEFORE = frozenset("_@/#\\-.$")
_JOINS_AFTER = frozenset("_@/(=")
"""Characters that join a word to an id, a path or code."""


class NameWord(NamedTuple):
    """One word of a name in a text."""

    start: int
    """Index of the first character."""
    end: int
    """Index after the last character."""
    word: str
    """The word as the text writes it."""


def split_person_name(name: str, *, is_family_name: bool = False) -> list[tuple[str, bool]]:
    """Split a person's name into the words that identify the person.

    Args:
        name: The complete name, or a part of it.
        is_family_name: Whether the field says that ``name`` is a family name.

    Returns:
        Pairs of a word in lower case and whether it belongs to the family name. That is each word if
        ``is_family_name``, else the last word, of four words the last two, and of ``Li, Mia`` the first. Particles are
        left out.
    """
    is_family_first = re.fullmatch(r"[^,]+, ?[^,]+", name) is not None
    words = [word.lower() for word in WORD.findall(name)]
    words = [word for word in words if word not in NAME_PARTICLES and (len(word) > 1 or not _has_case(word))]
    family_index = 0 if is_family_first else max(1, len(words) - 1)
    return [
        (word, is_family_name or index == family_index or (len(words) > 3 and index > 1))
        for index, word in enumerate(words)
    ]


def find_known_names(text: str, known: Collection[str]) -> Iterator[NameWord]:
    """Yield the words of known names where ``text`` uses them as a name.

    Args:
        text: The text to search.
        known: The words of names, in lower case.

    Yields:
        The words in the order of their positions.
    """
    lower = lower_same_length(text)
    found = [
        NameWord(start, start + len(word), text[start : start + len(word)])
        for word in known
        for start in _positions(lower, word)
    ]
    found.sort()
    is_adjacent = [_are_adjacent(text, left, right) for left, right in pairwise(found)]
    for index, name in enumerate(found):
        if not _has_case(name.word) or _is_name_alone(text, name) or any(is_adjacent[max(0, index - 1) : index + 1]):
            yield name


def _positions(lower: str, word: str) -> Iterator[int]:
    """Yield the positions where ``word`` is not a part of a longer word.

    In scripts without upper and lower case, such as Chinese, it may be: they put no spaces between words.
    """
    needs_boundary = _has_case(word)
    start = lower.find(word)
    while start >= 0:
        end = start + len(word)
        if not needs_boundary or not (lower[start - 1 : start].isalpha() or lower[end : end + 1].isalpha()):
            yield start
        start = lower.find(word, end)


def _are_adjacent(text: str, left: NameWord, right: NameWord) -> bool:
    if right.start - left.end > 4 or left.word.lower() == right.word.lower():
        return False
    # Two ordinary words in lower case with a space between them are no name, as in "they will long for it".
    if text[left.end : right.start].isspace() and {left.word, right.word} <= AMBIGUOUS_NAME_WORDS:
        return False
    return _NAME_SEPARATOR.fullmatch(text, left.end, right.start) is not None


def _is_name_alone(text: str, name: NameWord) -> bool:
    """Return whether ``name`` is a name also without another word of a name beside it."""
    word = name.word
    before, after = text[name.start - 1 : name.start], text[name.end : name.end + 1]
    if before in _JOINS_BEFORE or after in _JOINS_AFTER:
        return False
    if before.isdigit() or after.isdigit() or not word[0].isupper():
        return False
    if word.isupper() and len(word) < 5:  # MIA is the code of an airport
        return False
    if len(word) < 3 or word.lower() in AMBIGUOUS_NAME_WORDS:
        return word.istitle() and _BEFORE_NAME.search(text, max(0, name.start - 16), name.start) is not None
    return after != "-" or len(word) > 3


def _has_case(word: str) -> bool:
    return word.lower() != word.upper()
