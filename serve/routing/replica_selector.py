"""Chooses replicas for the requests of one process, from what the process knows of their loads.

``replica_router`` drives it with Ray Serve's queue lengths, and the simulator of ``benchmarks/scale`` with its own.
"""

import time
from collections.abc import Callable, Collection, Iterable

from looper.serve.routing.placement import Placement
from looper.serve.routing.sequence_counts import SequenceCounts

MEAN_REFRESH_S = 100e-6
"""Time for which a mean load is used, in seconds per replica: reading all loads takes about a hundredth of that."""


class ReplicaSelector:
    """Chooses replicas by ``Placement``.

    The mean load of many replicas is not read for each request, but every ``MEAN_REFRESH_S`` times their number. In
    between, it grows by the requests that are routed.

    Args:
        max_num_seqs: Number of sequences that a replica runs at a time.
        queue_length: Returns the number of requests of a replica as far as this process knows, None if it does not.
        clock: Returns the time in seconds of a monotonic clock.

    Attributes:
        more_seqs: Sequences beyond the first of the requests that this process has sent.
    """

    def __init__(
        self, max_num_seqs: int, queue_length: Callable[[str], int | None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.more_seqs = SequenceCounts()
        self._max_num_seqs = max_num_seqs
        self._queue_length = queue_length
        self._clock = clock
        self.update(())

    def update(self, replicas: Iterable[str]) -> None:
        """Use other replicas from now on.

        Args:
            replicas: Ids of all replicas.
        """
        self._placement = Placement(replicas)
        self._total_load, self._total_until = 0, self._clock()

    def select(self, digest: str, avoided: Collection[str] = ()) -> list[str]:
        """Choose the replicas to try for a request.

        Args:
            digest: Digest of the version, "" for the base model.
            avoided: Ids of replicas that get no request now.

        Returns:
            Ids of some replicas, best first.
        """
        if avoided:  # for a moment, after an engine has died
            placement = Placement(set(self._placement.replicas).difference(avoided))
            mean = sum(map(self._load, placement.replicas)) / max(1, len(placement.replicas))
            return placement.select(digest, self._load, mean, self._max_num_seqs)
        replicas = self._placement.replicas
        if (now := self._clock()) >= self._total_until:
            self._total_load = sum(map(self._load, replicas))
            self._total_until = now + MEAN_REFRESH_S * len(replicas)
        chosen = self._placement.select(
            digest, self._load, self._total_load / max(1, len(replicas)), self._max_num_seqs
        )
        self._total_load += 1
        return chosen

    def _load(self, replica: str) -> int:
        return (self._queue_length(replica) or 0) + self.more_seqs.of(replica)
