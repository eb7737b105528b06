"""Counts the sequences that this process has sent to each replica. Used by ``replica_router``."""

from collections import Counter
from typing import Any

from looper.serve.protocol import EngineRequest


class SequenceCounts:
    """The sequences beyond the first of the requests that this process has sent to replicas."""

    def __init__(self) -> None:
        self._by_request: dict[str, tuple[str, int]] = {}
        self._by_replica: Counter[str] = Counter()

    def add(self, request_id: str, replica: str, args: list[Any]) -> None:
        """Count a request that a replica has accepted.

        Args:
            request_id: Ray Serve's id of the request.
            replica: Id of the replica.
            args: Arguments of the call.
        """
        more = sum(arg.num_seqs - 1 for arg in args if isinstance(arg, EngineRequest))
        if more:
            self._by_request[request_id] = replica, more
            self._by_replica[replica] += more

    def remove(self, request_id: str) -> None:
        """Forget a request that has ended.

        Args:
            request_id: Ray Serve's id of the request.
        """
        replica, more = self._by_request.pop(request_id, ("", 0))
        self._by_replica[replica] -= more
        if not self._by_replica[replica]:
            del self._by_replica[replica]

    def of(self, replica: str) -> int:
        """Return the number for a ``replica``."""
        return self._by_replica[replica]
