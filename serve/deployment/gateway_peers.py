"""Asks all gateways for what they have counted, through Ray Serve. ``ray_app`` gives it to each gateway."""

from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from looper.serve.gateway.gateway_counts import PeersUnavailable

TIMEOUT_S = 5.0
"""Time for which a gateway waits for the others, in seconds."""


class RayGatewayPeers:
    """All replicas of the gateway's deployment. Implements ``GatewayPeers``.

    Args:
        app: Name of the Ray Serve application.
        deployment: Name of the gateway's deployment.
    """

    def __init__(self, app: str, deployment: str) -> None:
        self._app = app
        self._deployment = deployment

    async def ask(self, method: str, *args: Any) -> list[Any]:
        """Call a method at all gateways.

        Args:
            method: Name of the method.
            *args: Its arguments.

        Returns:
            Results of the gateways that responded.

        Raises:
            PeersUnavailable: Ray Serve does not respond.
        """
        handle = serve.get_deployment_handle(self._deployment, self._app)
        try:
            response = handle.broadcast(method, *args)
            results = await response.results_async(timeout_s=TIMEOUT_S, return_exceptions=True)
        except (RayError, RayServeException, TimeoutError) as error:
            raise PeersUnavailable(str(error)) from error
        return [result for result in results if not isinstance(result, BaseException)]
