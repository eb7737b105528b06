"""Similarity of two requests: ROUGE-L, the measure by which Self-Instruct decides what is new.

F1 of precision ``lcs / len(a)`` and recall ``lcs / len(b)``, where ``lcs`` is the length of the longest common
subsequence of words: Lin, 2004, ROUGE: A Package for Automatic Evaluation of Summaries, section 3.1, with beta = 1. The
package rouge-score finds words in Latin script only: to it, any two requests in Chinese have nothing in common.

``rules.py`` and ``task_variants.py`` use it.
"""

from collections.abc import Iterable

import regex

Words = tuple[str, ...]
"""The words of a text, in order."""

_WORD = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]|[\w--[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]]+", regex.V1
)
"""In scripts without spaces between words, each character counts as a word."""


def split_words(text: str) -> Words:
    """Split a text into words.

    Args:
        text: Any text.

    Returns:
        Its words, case-folded, without punctuation.
    """
    return tuple(_WORD.findall(text.casefold()))


def rouge_l(a: Words, b: Words) -> float:
    """Compute ROUGE-L of two texts.

    Args:
        a: Words of one text.
        b: Words of the other text.

    Returns:
        A number from 0 (no common word) to 1 (the same words in the same order).
    """
    common = _longest_common_subsequence(a, b)
    return 2 * common / (len(a) + len(b)) if common else 0.0


def is_novel(candidate: Words, known: Iterable[Words], threshold: float) -> bool:
    """Return whether a text differs from all known ones.

    Args:
        candidate: Words of the text.
        known: Words of each known text.
        threshold: ROUGE-L from which two texts count as the same.

    Returns:
        True if ROUGE-L with each known text is below ``threshold``.
    """
    return all(_max_rouge_l(candidate, words) < threshold or rouge_l(candidate, words) < threshold for words in known)


def _max_rouge_l(a: Words, b: Words) -> float:
    """Return an upper bound of ROUGE-L that follows from the lengths alone."""
    return 2 * min(len(a), len(b)) / (len(a) + len(b)) if a and b else 0.0


def _longest_common_subsequence(a: Words, b: Words) -> int:
    """Return the length of the longest common subsequence.

    A row of the usual table is one integer: its bits mark the words of ``a`` at which the length does not grow.
    Hyyrö, 2004, Bit-Parallel LCS-length Computation Revisited.
    """
    masks: dict[str, int] = {}
    for index, word in enumerate(a):
        masks[word] = masks.get(word, 0) | 1 << index
    full = (1 << len(a)) - 1
    row = full
    for word in b:
        matches = row & masks.get(word, 0)
        row = ((row + matches) | (row - matches)) & full
    return len(a) - row.bit_count()
