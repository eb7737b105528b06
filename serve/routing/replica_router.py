"""The router of skill servers: ``placement`` as Ray Serve takes it. Runs in every process that has a handle on them."""

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from looper.serve.routing.placement import place


class AdapterAffinityRouter(RequestRouter):
    """Sends requests for a version to the replicas that keep its adapter."""

    def initialize_state(self, *, seats: int) -> None:  # type: ignore[override]
        """``seats`` is how many requests a replica serves at once."""
        self._seats = seats

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """One after the other: whichever Ray finds able to take the request gets it."""
        digest = pending_request.metadata.multiplexed_model_id if pending_request else ""
        by_id = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        known = self.replica_queue_len_cache
        loads = {id: known.get(replica.replica_id) or 0 for id, replica in by_id.items()}
        return [[by_id[id]] for id in place(digest, loads, self._seats)]
