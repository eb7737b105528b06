"""Ray Serve's request router for the skill servers. It runs in every process that has a handle to them.

``deployment/ray_app.py`` configures it, and ``placement`` makes the choice.
"""

from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica
from typing_extensions import override

from looper.serve.routing import known_replicas
from looper.serve.routing.placement import select_replicas
from looper.serve.routing.sequence_counts import SequenceCounts


class AdapterAffinityRouter(RequestRouter):
    """Sends the requests of a version to the replicas that keep its adapter.

    Ray Serve counts the requests of a replica, from all processes. Their sequences are counted here, for the requests
    that this process has sent.
    """

    @override
    def initialize_state(self, *, max_num_seqs: int) -> None:  # type: ignore[override]
        self._max_num_seqs = max_num_seqs
        self._more_seqs = SequenceCounts()

    @override
    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        if replicas:
            known_replicas.watch(self._deployment_id.name, lambda: len(self.curr_replicas))

    @override
    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        digest = pending_request.metadata.multiplexed_model_id if pending_request else ""
        by_id = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        by_id = {id: by_id[id] for id in known_replicas.without_avoided(by_id)}
        queue_lengths = self.replica_queue_len_cache
        loads = {
            id: (queue_lengths.get(replica.replica_id) or 0) + self._more_seqs.of(id) for id, replica in by_id.items()
        }
        # One replica per rank: Ray tries them in this order until one accepts the request.
        return [[by_id[id]] for id in select_replicas(digest, loads, self._max_num_seqs)]

    @override
    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        request_id = pending_request.metadata.internal_request_id
        self._more_seqs.add(request_id, replica_id.unique_id, pending_request.args)

    @override
    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        self._more_seqs.remove(internal_request_id)
