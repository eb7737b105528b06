"""Suggest the right name for a misspelled setting or recipe field. Settings and recipes use it in error messages."""

from collections.abc import Collection
from difflib import SequenceMatcher, get_close_matches

_MIN_SIMILARITY = 0.6
"""Minimum ``difflib`` similarity, from 0 to 1, of a suggestion."""


def did_you_mean(name: str, known: Collection[str]) -> str | None:
    """Return the known name that is most similar to ``name``.

    A known path that ends with the same part wins over all others: for ``port`` the suggestion is ``serve.port``.

    Args:
        name: A plain name or a dotted path.
        known: Valid names or paths.

    Returns:
        The suggestion, or None if no known name is similar.
    """
    last_part = name.rpartition(".")[2]
    same_last_part = [candidate for candidate in known if candidate.rpartition(".")[2] == last_part]
    if same_last_part:
        return max(same_last_part, key=lambda candidate: SequenceMatcher(None, name, candidate).ratio())
    return next(iter(get_close_matches(name, known, n=1, cutoff=_MIN_SIMILARITY)), None)
