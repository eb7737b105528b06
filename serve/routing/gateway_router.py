"""Ray Serve's request router for the gateways. ``deployment/proxy_errors`` asks it whether there is a gateway."""

from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter
from ray.serve.request_router import RunningReplica
from typing_extensions import override

from looper.serve.routing import known_replicas


class GatewayRouter(PowerOfTwoChoicesRequestRouter):
    """Ray Serve's default router, which also tells its process how many gateways run."""

    @override
    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        if replicas:
            known_replicas.watch(self._deployment_id.name, lambda: len(self.curr_replicas))
