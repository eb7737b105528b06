"""Find texts by their words: BM25, and BM25 fused with the similarity of character trigrams.

No embedding model is at hand without a network, so the second half of the hybrid search compares cosines of character
trigrams with inverse document frequencies, which forgives other forms of a word but knows no synonyms. Both rankings
are fused by their reciprocal ranks (Cormack, Clarke and Büttcher 2009, with their constant of 60).
"""

from collections import Counter
from collections.abc import Sequence
from math import log

import bm25s
import numpy as np
from numpy.typing import NDArray

RANK_CONSTANT = 60
"""The constant k of reciprocal rank fusion."""

Scores = NDArray[np.float64]


class TextSearch:
    """Finds the texts that are most similar to a query."""

    def __init__(self, texts: Sequence[str], *, hybrid: bool) -> None:
        """Index texts.

        Args:
            texts: At least one text.
            hybrid: Whether character trigrams count, too.
        """
        self._count = len(texts)
        self._bm25 = bm25s.BM25()
        self._bm25.index(_words(texts), show_progress=False)
        self._trigrams = _TrigramIndex(texts) if hybrid else None

    def find(self, query: str, count: int) -> list[int]:
        """Return the numbers of the most similar texts.

        Args:
            query: The query.
            count: Maximum number of texts.

        Returns:
            The numbers, the most similar text first. Equally similar texts are in their order.
        """
        (words,) = _words([query])
        scores = self._bm25.get_scores(words) if words else np.zeros(self._count)
        if self._trigrams is not None:
            scores = _reciprocal_ranks(scores) + _reciprocal_ranks(self._trigrams.score(query))
        return [int(number) for number in np.argsort(-scores, kind="stable")[:count]]


class _TrigramIndex:
    def __init__(self, texts: Sequence[str]) -> None:
        counts = [_count_trigrams(text) for text in texts]
        found = Counter(trigram for each in counts for trigram in each)
        self._weights = {trigram: log((1 + len(texts)) / (1 + number)) + 1 for trigram, number in found.items()}
        self._columns = {trigram: column for column, trigram in enumerate(self._weights)}
        self._rows = np.stack([self._vector(each) for each in counts])

    def score(self, query: str) -> Scores:
        scores: Scores = self._rows @ self._vector(_count_trigrams(query))
        return scores

    def _vector(self, counts: Counter[str]) -> Scores:
        vector = np.zeros(len(self._columns))
        for trigram, number in counts.items():
            if trigram in self._columns:
                vector[self._columns[trigram]] = number * self._weights[trigram]
        norm = float(np.linalg.norm(vector))
        return vector / norm if norm else vector


def _count_trigrams(text: str) -> Counter[str]:
    padded = f"  {' '.join(text.lower().split())}  "
    return Counter(padded[start : start + 3] for start in range(len(padded) - 2))


def _reciprocal_ranks(scores: Scores) -> Scores:
    ranks = np.empty(len(scores))
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return 1 / (RANK_CONSTANT + ranks)


def _words(texts: Sequence[str]) -> list[list[str]]:
    words = bm25s.tokenize(list(texts), stopwords=None, return_ids=False, show_progress=False)
    return [list(each) for each in words]
