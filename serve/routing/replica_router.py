"""Ray Serve's request router for the skill servers. It runs in every process that has a handle to them.

``deployment/ray_app.py`` configures it, and ``placement`` makes the choice.
"""

import time

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica
from typing_extensions import override

from looper.serve.routing.placement import select_replicas

_routers: dict[str, "AdapterAffinityRouter"] = {}  # of this process, by deployment; Ray creates them
_avoided_until: dict[str, float] = {}  # time until which a replica gets no requests if another can get them, by id


def avoid_replica(replica: str, seconds: float) -> None:
    """Send requests of this process to other replicas for some time, as far as there are others.

    Args:
        replica: Id of the replica.
        seconds: How long, in seconds.
    """
    now = time.monotonic()
    for other in [other for other, until in _avoided_until.items() if until < now]:
        del _avoided_until[other]
    _avoided_until[replica] = now + seconds


def count_replicas(deployment: str) -> int | None:
    """Return the number of running replicas of a deployment.

    Args:
        deployment: Name of the deployment.

    Returns:
        The number. None if this process has never known of any: it may not have been told yet.
    """
    router = _routers.get(deployment)
    return len(router.curr_replicas) if router and router.has_had_replicas else None


class AdapterAffinityRouter(RequestRouter):
    """Sends the requests of a version to the replicas that keep its adapter.

    Attributes:
        has_had_replicas: Whether there has ever been a replica.
    """

    has_had_replicas = False

    @override
    def initialize_state(self, *, max_num_seqs: int) -> None:  # type: ignore[override]
        self._max_num_seqs = max_num_seqs
        _routers[self._deployment_id.name] = self

    @override
    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        self.has_had_replicas |= bool(replicas)

    @override
    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        digest = pending_request.metadata.multiplexed_model_id if pending_request else ""
        by_id = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        now = time.monotonic()
        by_id = {id: replica for id, replica in by_id.items() if _avoided_until.get(id, 0.0) < now} or by_id
        queue_lengths = self.replica_queue_len_cache
        loads = {id: queue_lengths.get(replica.replica_id) or 0 for id, replica in by_id.items()}
        # One replica per rank: Ray tries them in this order until one accepts the request.
        return [[by_id[id]] for id in select_replicas(digest, loads, self._max_num_seqs)]
