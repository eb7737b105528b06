"""What says the same twice: by what was done, and by what was written."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

from looper.jobs.synthesis.actions import actions
from looper.jobs.synthesis.draft import Draft

if TYPE_CHECKING:
    from datasketch import MinHash

STAGE = "duplicates"

MOST_PER_TASK = 3
ALIKE = 0.9
"""Jaccard similarity of the words, in threes, from which on two texts are the same."""
PERMUTATIONS = 64
"""Of MinHash: the error of the similarity is about 1 / sqrt(PERMUTATIONS), 0.12 at worst and 0.04 near ``ALIKE``."""


def drop_duplicates(task: Sequence[Draft]) -> list[Draft]:
    """Of all episodes of one task, reject those that are like a better one, and all beyond ``MOST_PER_TASK``.

    Better weighs more, is shorter, or comes first by its id.
    """
    order = sorted(
        (at for at, draft in enumerate(task) if not draft.rejected),
        key=lambda at: (-task[at].weight, len(task[at].steps), task[at].source.id),
    )
    kept: list[_Kept] = []
    found = list(task)
    for at in order:
        draft = task[at]
        new = _Kept(draft, acted(draft))
        like = next((other.draft.source.id for other in kept if new.like(other)), None)
        if like is not None:
            found[at] = draft.reject(STAGE, "duplicate", f"does or says what {like} does")
        elif len(kept) == MOST_PER_TASK:
            found[at] = draft.reject(STAGE, "too_many", f"the task has {MOST_PER_TASK} better ones")
        else:
            kept.append(new)
    return found


@dataclass(frozen=True)
class _Kept:
    draft: Draft
    acted: tuple[str, ...]

    @cached_property
    def words(self) -> "MinHash":
        return _min_hash(self.draft)

    def like(self, other: Self) -> bool:
        """Whether the same was done, or, in as many calls, nearly the same was said."""
        if self.acted and self.acted == other.acted:
            return True
        return len(self.acted) == len(other.acted) and self.words.jaccard(other.words) >= ALIKE


def acted(draft: Draft) -> tuple[str, ...]:
    """What was done, in order: the same for episodes whose calls are the same."""
    return tuple(signature for action in actions(draft.steps) for signature in action.signature)


def _min_hash(draft: Draft) -> "MinHash":
    from datasketch import MinHash  # with all of SciPy: two seconds, which most jobs need not pay

    hashed = MinHash(num_perm=PERMUTATIONS, seed=1)
    words = re.findall(r"\w+", " ".join(each.step.content for each in draft.steps).lower())
    threes = {" ".join(words[at : at + 3]) for at in range(max(1, len(words) - 2))}
    hashed.update_batch([three.encode() for three in sorted(threes)])
    return hashed
