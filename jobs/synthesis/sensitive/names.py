"""Where the names of known people stand in a text: each word of a name by itself, for people are called by any of them.

A word that is also an ordinary one (``Will``, ``Long``), is two letters long, or is written small is a name only beside
another word of a name: so ``mia_li_3668`` is found, and ``Li-ion`` and ``a long way`` are not.
"""

import re
from collections.abc import Collection, Iterator
from itertools import pairwise
from typing import NamedTuple

from looper.jobs.synthesis.sensitive.words import ORDINARY, PARTICLES, in_lower_case

WORD = re.compile(r"[^\W\d_]+")
_BESIDE = re.compile(r"[ \t]{1,2}|, ?|[._-]|[ ][^\W\d_]\.? ")
_ADDRESSED = re.compile(
    r"(?:\b(?:Hi|Hello|Hey|Dear|Thanks|Thank you|Welcome|Sorry|Hola|Gracias|Mr|Mrs|Ms|Dr|name is|I am|I'm|llamo|"
    r"passenger|customer|guest|patient)[.,]?:? ?)$",
    re.IGNORECASE,
)


_JOINS_BEFORE = frozenset("_@/#\\-.$")
_JOINS_AFTER = frozenset("_@/(=")
"""What makes a word part of an id, a path or code."""


class Named(NamedTuple):
    """One word of a name, as it stands in a text."""

    start: int
    end: int
    word: str


def words_of_name(name: str, *, family: bool = False) -> list[tuple[str, bool]]:
    """The words that a name is known by, in lower case, and whether each is a family's.

    ``family`` says that all are. Else it is the last, of four words the last two, and of ``Li, Mia`` the first.
    """
    family_first = re.fullmatch(r"[^,]+, ?[^,]+", name) is not None
    words = [word.lower() for word in WORD.findall(name)]
    words = [word for word in words if word not in PARTICLES and (len(word) > 1 or not _has_case(word))]
    last = 0 if family_first else max(1, len(words) - 1)
    return [(word, family or at == last or (len(words) > 3 and at > 1)) for at, word in enumerate(words)]


def named_in(text: str, known: Collection[str]) -> Iterator[Named]:
    """Each word of ``known`` names, given in lower case, where ``text`` means it as a name."""
    lower = in_lower_case(text)
    found = [Named(at, at + len(word), text[at : at + len(word)]) for word in known for at in _places(lower, word)]
    found.sort()
    beside = [_are_beside(text, left, right) for left, right in pairwise(found)]
    for at, each in enumerate(found):
        if not _has_case(each.word) or _is_name(text, each) or any(beside[max(0, at - 1) : at + 1]):
            yield each


def _places(lower: str, word: str) -> Iterator[int]:
    """Where it is no part of another word. Chinese and the like are written without spaces: there it may be."""
    alone = _has_case(word)
    start = lower.find(word)
    while start >= 0:
        end = start + len(word)
        if not alone or not (lower[start - 1 : start].isalpha() or lower[end : end + 1].isalpha()):
            yield start
        start = lower.find(word, end)


def _are_beside(text: str, left: Named, right: Named) -> bool:
    if right.start - left.end > 4 or left.word.lower() == right.word.lower():
        return False
    if text[left.end : right.start].isspace() and {left.word, right.word} <= ORDINARY:  # they will long for it
        return False
    return _BESIDE.fullmatch(text, left.end, right.start) is not None


def _is_name(text: str, found: Named) -> bool:
    """By itself, without another word of a name beside it."""
    word = found.word
    before, after = text[found.start - 1 : found.start], text[found.end : found.end + 1]
    if before in _JOINS_BEFORE or after in _JOINS_AFTER:
        return False
    if before.isdigit() or after.isdigit() or not word[0].isupper():
        return False
    if word.isupper() and len(word) < 5:  # MIA is an airport
        return False
    if len(word) < 3 or word.lower() in ORDINARY:
        return word.istitle() and _ADDRESSED.search(text, max(0, found.start - 16), found.start) is not None
    return after != "-" or len(word) > 3


def _has_case(word: str) -> bool:
    return word.lower() != word.upper()
