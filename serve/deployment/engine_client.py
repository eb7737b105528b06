"""The gateway's ``EngineClient`` on Ray Serve: sends requests to the skill replicas of all pools."""

import logging
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from ray.exceptions import RayActorError, RayError
from ray.serve.handle import DeploymentHandle

from looper.serve.protocol import AdmissionInfo, EngineOutput, EngineRequest, EngineUnavailable, FullResponse

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
"""Number of replicas that a request is sent to, one after another, if they die before they produce any output."""


class PooledEngineClient:
    """Sends each request to the pool for its adapter's rank. Implements ``EngineClient``.

    Args:
        pools: Handles of the pools, by the maximum rank that each serves.
    """

    def __init__(self, pools: Mapping[int, DeploymentHandle[Any]]) -> None:
        self._pools = [(max_rank, pools[max_rank]) for max_rank in sorted(pools)]

    def _pool_for(self, rank: int) -> DeploymentHandle[Any]:
        """Return the pool with the smallest sufficient rank. The largest pool refuses ranks that it cannot serve."""
        return next((pool for max_rank, pool in self._pools if rank <= max_rank), self._pools[-1][1])

    async def prefetch(self, digest: str, rank: int, hold_s: float) -> None:
        """Load an adapter on the replica that receives its requests. A failure is logged and not raised.

        Args:
            digest: Digest of the version.
            rank: LoRA rank of its adapter.
            hold_s: Minimum time for which the adapter stays in memory, in seconds.
        """
        pool = self._pool_for(rank).options(method_name="prefetch", multiplexed_model_id=digest)
        try:
            await pool.remote(digest, hold_s)
        except RayError as error:
            log.warning("version %s was not prefetched; its next request loads it: %s", digest, error)

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
        """Run a request on a replica, and on another one if the first dies before it produces any output.

        Args:
            request: The request.

        Yields:
            Outputs in the order that ``EngineOutput`` describes.

        Raises:
            EngineUnavailable: ``MAX_ATTEMPTS`` replicas died before they produced any output.
            RayActorError: The replica died after that.
        """
        pool = self._pool_for(request.rank).options(method_name="generate", stream=True)
        is_admitted = has_output = False
        for _ in range(MAX_ATTEMPTS):
            outputs: Any = pool.options(multiplexed_model_id=request.digest or "").remote(request)
            try:
                async for output in outputs:
                    if isinstance(output, AdmissionInfo):
                        if is_admitted:
                            continue  # a replica that died has reported it already
                        is_admitted = True
                    elif isinstance(output, FullResponse) or output.text:
                        has_output = True
                    yield output
                return
            except RayActorError:
                if has_output:
                    raise
            finally:
                # Stop the engine's work if the client went away. This has no effect on a request that has ended.
                outputs.cancel()
        raise EngineUnavailable(f"{MAX_ATTEMPTS} replicas died before they produced any output")
