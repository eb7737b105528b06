"""Ray Serve's request router for the gateways. ``deployment/proxy_errors`` asks it whether there is a gateway."""

from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter
from ray.serve.request_router import PendingRequest, RunningReplica
from typing_extensions import override

from looper.serve.routing import known_replicas
from looper.serve.routing.silent_replicas import SilenceAwareRouter


class GatewayRouter(SilenceAwareRouter, PowerOfTwoChoicesRequestRouter):
    """Ray Serve's default router, which also tells its process how many gateways run."""

    @override
    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        if replicas:
            known_replicas.watch(self._deployment_id.name, lambda: len(self.curr_replicas))

    @override
    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        self.ask_silent_replicas()
        return await super().choose_replicas(candidate_replicas, pending_request)
