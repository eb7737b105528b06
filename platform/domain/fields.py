"""Names of fields that are nearly right: what a reader of an error is told to write instead."""

from collections.abc import Collection
from difflib import SequenceMatcher, get_close_matches

_LIKE = 0.6
"""Least likeness, from 0 to 1, of a name that is proposed."""


def did_you_mean(name: str, known: Collection[str]) -> str | None:
    """The one of ``known`` that ``name`` was most likely meant to be, or None if it is like none of them.

    Args:
        name: A dotted path or a plain name.
        known: Paths or names. One that ends as ``name`` does goes before others: ``port`` is ``serve.port``.
    """
    last = name.rpartition(".")[2]
    same_end = [each for each in known if each.rpartition(".")[2] == last]
    if same_end:
        return max(same_end, key=lambda each: SequenceMatcher(None, name, each).ratio())
    return next(iter(get_close_matches(name, known, n=1, cutoff=_LIKE)), None)
