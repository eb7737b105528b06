"""Divide a pass over the workers of a trainer, so that all of them compute about as many tokens.

``training/fused_step`` calls it on every worker, which then computes its own share. All come to the same division.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from looper.jobs.consolidation.data.packing import packed_size
from looper.jobs.consolidation.data.window import Window

TOLERANCE = 1.1
"""Tokens of the worker that has most, relative to the mean, at which no batch is divided further."""

MAX_DIVISIONS = 64
"""How often a batch is divided at most."""


def divide_over_workers(
    part: Mapping[int, Sequence[Window]], undivided: Collection[int], workers: int
) -> list[dict[int, list[Window]]]:
    """Divide the windows of a pass.

    Batches are dealt whole, the longest first, each to the worker with the fewest tokens (Graham, 1969): then the
    beginning that the windows of a batch share is computed once. While one worker has too many tokens, its longest
    batch is halved.

    Args:
        part: Windows of the pass by owner.
        undivided: Owners whose windows stay together.
        workers: Number of workers.

    Returns:
        For each worker, its windows by owner. Owners without windows are left out.
    """
    pieces = [(owner, list(windows)) for owner, windows in part.items()]
    best = _deal(pieces, workers)
    dealt = best
    for _ in range(MAX_DIVISIONS):
        divisible = [
            number
            for number in dealt.pieces[dealt.busiest]
            if pieces[number][0] not in undivided and len(pieces[number][1]) > 1
        ]
        if max(dealt.tokens) <= TOLERANCE * fmean(dealt.tokens) or not divisible:
            break
        owner, windows = pieces.pop(max(divisible, key=lambda number: packed_size(pieces[number][1])))
        windows.sort(key=len)
        pieces += [(owner, windows[::2]), (owner, windows[1::2])]
        dealt = _deal(pieces, workers)
        if max(dealt.tokens) < max(best.tokens):
            best = dealt
    return [{owner: share[owner] for owner in part if owner in share} for share in best.windows]


@dataclass(frozen=True)
class _Division:
    pieces: list[list[int]]
    """Numbers of each worker's pieces."""
    windows: list[dict[int, list[Window]]]
    """Each worker's windows by owner."""
    tokens: list[int]
    """Each worker's tokens."""

    @property
    def busiest(self) -> int:
        return self.tokens.index(max(self.tokens))


def _deal(pieces: Sequence[tuple[int, list[Window]]], workers: int) -> _Division:
    found = _Division([[] for _ in range(workers)], [{} for _ in range(workers)], [0] * workers)
    sizes = [packed_size(windows) for _, windows in pieces]
    for number in sorted(range(len(pieces)), key=lambda number: -sizes[number]):
        owner, windows = pieces[number]
        worker = found.tokens.index(min(found.tokens))
        found.tokens[worker] += sizes[number]
        found.pieces[worker].append(number)
        found.windows[worker].setdefault(owner, []).extend(windows)
    return found
