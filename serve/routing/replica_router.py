"""Ray Serve's request router for the skill servers. It runs in every process that has a handle to them.

``deployment/ray_app.py`` configures it, and ``replica_selector`` makes the choice.
"""

from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RunningReplica
from typing_extensions import override

from looper.serve.routing import known_replicas
from looper.serve.routing.replica_selector import ReplicaSelector
from looper.serve.routing.silent_replicas import SilenceAwareRouter

LIST_ADAPTERS = "list_adapters"
"""Method of a replica that is called at the replica whose id is given as the multiplexed model."""


class AdapterAffinityRouter(SilenceAwareRouter):
    """Sends the requests of a version to the replicas that keep its adapter.

    Nodes that will go (``known_replicas.leave_nodes``) are used only if there are no others.

    Ray Serve counts the requests of a replica, from all processes. Their sequences are counted here, for the requests
    that this process has sent.
    """

    @override
    def initialize_state(self, *, max_num_seqs: int) -> None:  # type: ignore[override]
        super().initialize_state()
        self._candidates: list[RunningReplica] = []
        self._left: frozenset[str] = frozenset()
        self._by_id: dict[str, RunningReplica] = {}
        self._selector = ReplicaSelector(max_num_seqs, self._queue_length)

    @override
    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        if replicas:
            known_replicas.watch(self._deployment_id.name, lambda: len(self.curr_replicas))
            known_replicas.watch_nodes(self._deployment_id.name, self._find_nodes)

    @override
    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        self.ask_silent_replicas()
        digest = pending_request.metadata.multiplexed_model_id if pending_request else ""
        method = pending_request.metadata.call_method if pending_request else ""
        if method == LIST_ADAPTERS:
            return [[replica] for replica in candidate_replicas if replica.replica_id.unique_id == digest]
        left = known_replicas.left_nodes()
        # Ray makes a new list whenever a replica comes or goes.
        if candidate_replicas is not self._candidates or left is not self._left:
            self._candidates, self._left = candidate_replicas, left
            self._by_id = {replica.replica_id.unique_id: replica for replica in _without(candidate_replicas, left)}
            self._selector.update(self._by_id)
        avoided = known_replicas.find_avoided(self._by_id)
        if method == "prefetch" and (leaving := known_replicas.leaving_nodes()):
            staying = {replica.replica_id.unique_id for replica in _without(list(self._by_id.values()), leaving)}
            avoided |= self._by_id.keys() - staying
        chosen = self._selector.select(digest, avoided)
        # One replica per rank: Ray tries them in this order until one accepts the request.
        return [[self._by_id[id]] for id in chosen]

    def _find_nodes(self) -> dict[str, str]:
        return {id.unique_id: replica.node_id for id, replica in self.curr_replicas.items()}

    def _queue_length(self, id: str) -> int | None:
        return self.replica_queue_len_cache.get(self._by_id[id].replica_id)

    @override
    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        request_id = pending_request.metadata.internal_request_id
        known_replicas.record_acceptance(pending_request.args)
        self._selector.more_seqs.add(request_id, replica_id.unique_id, pending_request.args)

    @override
    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        self._selector.more_seqs.remove(internal_request_id)


def _without(replicas: list[RunningReplica], nodes: frozenset[str]) -> list[RunningReplica]:
    """Return the replicas that are on other nodes, or all if none is."""
    return [replica for replica in replicas if replica.node_id not in nodes] or replicas
