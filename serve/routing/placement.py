"""Chooses the replica of a request: one that has the adapter, unless it is overloaded.

Used by ``replica_selector`` and by the simulators. It is rendezvous hashing (Thaler and Ravishankar, 1998): each
version ranks the replicas in its own order. When a replica comes or goes, only the versions that rank it first move.
The load is bounded (Mirrokni et al., 2018, arXiv 1608.01350): no replica takes much more than the mean load, and no
request waits at one replica while another could run it. So a popular version spreads over as many replicas as it keeps
busy, always the same ones, and shrinks back when its load falls.

The cost per request matters, because each gateway ranks all replicas for each of its requests. The replicas are hashed
once, a version's order comes from a few array operations, and loads are read only as far down the order as needed.
"""

import hashlib
import heapq
from collections.abc import Callable, Iterable, Iterator
from math import ceil

import numpy as np
import numpy.typing as npt

MAX_LOAD_FACTOR = 1.25
"""Maximum load of a replica as a multiple of the mean load, while another replica has less.

A replica always takes a quarter of ``max_num_seqs``.
"""

MAX_CHOICES = 8
"""Maximum number of replicas that a request is offered to. If none accepts it, the choice is made again."""

_FIRST_RANKS = 16  # sorted at first; the rest is sorted only if all of these are overloaded


class Placement:
    """Ranks a fixed set of replicas for each version. The order is the same in every process.

    Args:
        replicas: Ids of the replicas.

    Attributes:
        replicas: The ids, sorted.
    """

    def __init__(self, replicas: Iterable[str]) -> None:
        self.replicas = sorted(replicas)
        self._hashes = np.array([_hash(replica) for replica in self.replicas], np.uint64)

    def rank(self, digest: str) -> Iterator[str]:
        """Order the replicas by a version's preference.

        Args:
            digest: Digest of the version.

        Yields:
            The ids, most preferred first.
        """
        scores = _mix(self._hashes ^ np.uint64(_hash(digest)))
        first = min(_FIRST_RANKS, len(scores))
        if len(scores) > first:
            best = np.argpartition(scores, first - 1)[:first]
            yield from (self.replicas[index] for index in best[np.argsort(scores[best], kind="stable")])
        else:
            first = 0
        yield from (self.replicas[index] for index in np.argsort(scores, kind="stable")[first:])

    def select(self, digest: str, load: Callable[[str], int], mean_load: float, max_num_seqs: int) -> list[str]:
        """Choose the replicas to try for a request.

        Args:
            digest: Digest of the version, "" for the base model, which every replica has.
            load: Returns the number of sequences of a replica.
            mean_load: Mean number of sequences of all replicas.
            max_num_seqs: Number of sequences that a replica runs at a time.

        Returns:
            Ids of at most ``MAX_CHOICES`` replicas, best first. Empty if there are no replicas.
        """
        if not digest or not self.replicas:
            return heapq.nsmallest(MAX_CHOICES, self.replicas, key=load)
        max_load = max(max_num_seqs // 4, ceil(MAX_LOAD_FACTOR * (mean_load + 1 / len(self.replicas))))
        free: list[str] = []
        full: list[tuple[int, str]] = []
        for replica in self.rank(digest):
            if (present := load(replica)) >= max_load:
                continue
            # Replicas that can run the request now, the most preferred first; then those with the shortest queues.
            if present < max_num_seqs:
                free.append(replica)
                if len(free) == MAX_CHOICES:
                    return free
            else:
                full.append((present, replica))
        chosen = free + [replica for _, replica in sorted(full, key=lambda each: each[0])]
        # A mean that is not quite up to date may leave no replica below the maximum.
        return chosen[:MAX_CHOICES] or heapq.nsmallest(MAX_CHOICES, self.replicas, key=load)


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return a pseudorandom number for each value: the finalizer of SplitMix64 (Steele, Lea and Flood, 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
