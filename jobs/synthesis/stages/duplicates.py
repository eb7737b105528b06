"""The duplicates stage: keep one of several episodes of a task that make the same calls or say nearly the same.

``pipeline/stages.py`` calls it for each task, after credit and before the final weights.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

from looper.jobs.synthesis.actions import extract_actions
from looper.jobs.synthesis.draft import Draft

if TYPE_CHECKING:
    from datasketch import MinHash

STAGE = "duplicates"

MAX_EPISODES_PER_TASK = 3

MIN_SIMILARITY = 0.9
"""Jaccard similarity of word trigrams from which on two texts count as the same."""

MINHASH_PERMUTATIONS = 64
"""Number of hash functions of MinHash (Broder, 1997).

The error of the similarity is about ``1 / sqrt(MINHASH_PERMUTATIONS)``: 0.12 at worst, and 0.04 near
``MIN_SIMILARITY``.
"""


def drop_duplicates(task: Sequence[Draft]) -> list[Draft]:
    """Reject duplicates of better episodes and all episodes beyond ``MAX_EPISODES_PER_TASK``.

    An episode is better if it has more weight; then if it is shorter; then if its id comes first.

    Args:
        task: All drafts of one task.

    Returns:
        The drafts in the same order, some of them rejected.
    """
    best_first = sorted(
        (index for index, draft in enumerate(task) if not draft.rejected),
        key=lambda index: (-task[index].weight, len(task[index].steps), task[index].source.id),
    )
    kept: list[_KeptEpisode] = []
    drafts = list(task)
    for index in best_first:
        draft = task[index]
        candidate = _KeptEpisode(draft, _call_signatures(draft))
        original = next((episode.draft.source.id for episode in kept if candidate.is_duplicate_of(episode)), None)
        if original is not None:
            detail = f"it makes the same calls or says nearly the same as {original}"
            drafts[index] = draft.reject(STAGE, "duplicate", detail)
        elif len(kept) == MAX_EPISODES_PER_TASK:
            drafts[index] = draft.reject(STAGE, "too_many", f"the task has {MAX_EPISODES_PER_TASK} better episodes")
        else:
            kept.append(candidate)
    return drafts


@dataclass(frozen=True)
class _KeptEpisode:
    draft: Draft
    call_signatures: tuple[str, ...]
    """Signatures of all calls, in order."""

    @cached_property
    def min_hash(self) -> "MinHash":
        """The MinHash of the episode's text, computed only where the calls do not decide."""
        return _min_hash(self.draft)

    def is_duplicate_of(self, other: Self) -> bool:
        """Return whether both make the same calls, or make as many calls and say nearly the same."""
        if self.call_signatures and self.call_signatures == other.call_signatures:
            return True
        return (
            len(self.call_signatures) == len(other.call_signatures)
            and self.min_hash.jaccard(other.min_hash) >= MIN_SIMILARITY
        )


def _call_signatures(draft: Draft) -> tuple[str, ...]:
    return tuple(signature for action in extract_actions(draft.steps) for signature in action.signatures)


def _min_hash(draft: Draft) -> "MinHash":
    # Imported late: it imports SciPy, which takes two seconds that most jobs do not need.
    from datasketch import MinHash

    hashed = MinHash(num_perm=MINHASH_PERMUTATIONS, seed=1)
    words = re.findall(r"\w+", " ".join(step.step.content for step in draft.steps).lower())
    trigrams = {" ".join(words[start : start + 3]) for start in range(max(1, len(words) - 2))}
    hashed.update_batch([trigram.encode() for trigram in sorted(trigrams)])
    return hashed
