"""How alike two requests are: ROUGE-L, the measure by which Self-Instruct tells what is new.

F1 of precision ``lcs / len(a)`` and recall ``lcs / len(b)``, ``lcs`` being the length of the longest common subsequence
of words: Lin, 2004, ROUGE: A Package for Automatic Evaluation of Summaries, section 3.1, with beta = 1. The package
rouge-score sees words in Latin letters only: to it, any two requests in Chinese are nothing alike.
"""

from collections.abc import Iterable

import regex

Words = tuple[str, ...]

_WORD = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]|[\w--[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]]+", regex.V1
)
"""Scripts that put no space between words are taken by the character."""


def words(text: str) -> Words:
    return tuple(_WORD.findall(text.casefold()))


def rouge_l(a: Words, b: Words) -> float:
    """From 0, nothing in common, to 1, the same words in the same order."""
    common = _longest_common_subsequence(a, b)
    return 2 * common / (len(a) + len(b)) if common else 0.0


def is_novel(candidate: Words, known: Iterable[Words], below: float) -> bool:
    """Whether ``candidate`` is less than ``below`` like each that is known."""
    return all(_most(candidate, each) < below or rouge_l(candidate, each) < below for each in known)


def _most(a: Words, b: Words) -> float:
    """What ROUGE-L can be at most, by the lengths alone."""
    return 2 * min(len(a), len(b)) / (len(a) + len(b)) if a and b else 0.0


def _longest_common_subsequence(a: Words, b: Words) -> int:
    """Its length: a row of the usual table is one integer, a bit for each word of ``a`` at which the length grows not.

    Hyyrö, 2004, Bit-Parallel LCS-length Computation Revisited.
    """
    places: dict[str, int] = {}
    for place, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << place
    full = (1 << len(a)) - 1
    row = full
    for word in b:
        matches = row & places.get(word, 0)
        row = ((row + matches) | (row - matches)) & full
    return len(a) - row.bit_count()
