"""Ray Serve's request router for the skill servers. It runs in every process that has a handle to them.

``deployment/ray_app.py`` configures it, and ``placement`` makes the choice.
"""

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica
from typing_extensions import override

from looper.serve.routing import known_replicas
from looper.serve.routing.placement import select_replicas


class AdapterAffinityRouter(RequestRouter):
    """Sends the requests of a version to the replicas that keep its adapter."""

    @override
    def initialize_state(self, *, max_num_seqs: int) -> None:  # type: ignore[override]
        self._max_num_seqs = max_num_seqs

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
        by_id = {id: replica for id, replica in by_id.items() if not known_replicas.is_avoided(id)} or by_id
        queue_lengths = self.replica_queue_len_cache
        loads = {id: queue_lengths.get(replica.replica_id) or 0 for id, replica in by_id.items()}
        # One replica per rank: Ray tries them in this order until one accepts the request.
        return [[by_id[id]] for id in select_replicas(digest, loads, self._max_num_seqs)]
