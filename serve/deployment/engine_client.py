"""The gateway's ``EngineClient`` on Ray Serve: sends requests to the skill replicas of all pools."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Collection, Mapping
from operator import itemgetter
from typing import Any

from ray.exceptions import RayActorError, RayError
from ray.serve.handle import DeploymentHandle

from looper.serve.deployment.crash_suspects import CrashSuspects
from looper.serve.error_responses import base_not_served, engine_died, engine_gone
from looper.serve.protocol import (
    AdmissionInfo,
    EngineDied,
    EngineOutput,
    EngineRequest,
    EngineUnavailable,
    FullResponse,
)
from looper.serve.routing.known_replicas import (
    avoid_replica,
    count_replicas,
    expecting_acceptance,
    find_replicas_on,
)
from looper.serve.routing.replica_router import LIST_ADAPTERS

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 2
"""Number of replicas that a request is sent to, one after another."""

AVOID_S = 0.5
"""Time for which a replica whose engine is dead gets no requests, in seconds. The next one finds out again."""

CHECK_INTERVAL_S = 1.0
"""Time between two looks whether there is a replica, for a request that has heard nothing yet, in seconds."""

MAX_ACCEPT_WAIT_S = 5.0
"""How long a replica may take to accept a request, in seconds. It does so at once, unless it stands still."""

MAX_START_WAIT_S = 5.0
"""How long a request waits for the first replica that this process hears of, in seconds.

After a restart of the cluster, gateways run long before engines do.
"""

CONCURRENT_MOVES = 4
"""Number of adapters that are moved from a replica at the same time. An engine prefetches 16 for all gateways."""

REPLICA_START_S = 10.0
"""What a client is told to wait for a replica that Ray Serve starts anew, in seconds. That takes longer or shorter."""


class PooledEngineClient:
    """Sends each request to the pool for its base model and its adapter's rank. Implements ``EngineClient``.

    Args:
        pools: Handles of the pools, by base model and the maximum rank that each serves.
        from_zero: Names of the deployments that have no replica while there are no requests. Their requests wait for
            one.
    """

    def __init__(
        self, pools: Mapping[str, Mapping[int, DeploymentHandle[Any]]], from_zero: Collection[str] = ()
    ) -> None:
        self._pools = {base: sorted(by_rank.items(), key=itemgetter(0)) for base, by_rank in pools.items()}
        self._from_zero = from_zero
        self._suspects = CrashSuspects()

    def _pool_for(self, base: str, rank: int) -> DeploymentHandle[Any] | None:
        """Return the base model's pool with the smallest sufficient rank. The largest refuses ranks above its own.

        None, if no engine has the base model. If there is only one, its engines compare the weights themselves, because
        the same base model may have had another name.
        """
        pools = next(iter(self._pools.values())) if len(self._pools) == 1 else self._pools.get(base)
        if pools is None:
            return None
        return next((pool for max_rank, pool in pools if rank <= max_rank), pools[-1][1])

    async def prefetch(self, base: str, digest: str, rank: int, hold_s: float) -> None:
        """Load an adapter on the replica that receives its requests. A failure is logged and not raised.

        Starts no replica: if the pool has none, nothing happens.

        Args:
            base: Base model that it was trained on.
            digest: Digest of the version.
            rank: LoRA rank of its adapter.
            hold_s: Minimum time for which the adapter stays in memory, in seconds.
        """
        if (pool := self._pool_for(base, rank)) is not None:
            await self._prefetch(pool, digest, hold_s)

    async def move_adapters(self, nodes: Collection[str]) -> None:
        """Prefetch what engines on some nodes have in memory where requests for it will go without those nodes.

        Args:
            nodes: Ids of the nodes. ``known_replicas`` knows that they will go.
        """
        pools = [pool for by_rank in self._pools.values() for _, pool in by_rank]
        replicas = [(pool, id) for pool in pools for id in find_replicas_on(pool.deployment_name, nodes)]
        await asyncio.gather(*(self._move_adapters(pool, replica) for pool, replica in replicas))

    async def _move_adapters(self, pool: DeploymentHandle[Any], replica: str) -> None:
        listing: Any = pool.options(method_name=LIST_ADAPTERS, multiplexed_model_id=replica).remote()
        try:
            digests = await listing
        except RayError as error:
            log.warning("the adapters of replica %s are not moved; their next requests load them: %s", replica, error)
            return
        finally:
            listing.cancel()
        turns = asyncio.Semaphore(CONCURRENT_MOVES)

        async def move(digest: str) -> None:
            async with turns:
                await self._prefetch(pool, digest, hold_s=0)

        await asyncio.gather(*map(move, digests))
        log.info("%d adapters of replica %s are prefetched elsewhere", len(digests), replica)

    async def _prefetch(self, pool: DeploymentHandle[Any], digest: str, hold_s: float) -> None:
        replicas = count_replicas(pool.deployment_name)
        if replicas == 0 or (replicas is None and pool.deployment_name in self._from_zero):
            return
        pool = pool.options(method_name="prefetch", multiplexed_model_id=digest)
        try:
            await pool.remote(digest, hold_s)
        except RayError as error:
            log.warning("version %s was not prefetched; its next request loads it: %s", digest, error)

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
        """Run a request on a replica, and if its engine dies, perhaps on another one.

        A request goes to another replica at most once, and only if the client has heard nothing, and the engine died
        before it received the request or after it had generated tokens, or did not accept it. A request that the engine
        had just received may be what killed it.

        Args:
            request: The request.

        Yields:
            Outputs in the order that ``EngineOutput`` describes.

        Raises:
            EngineUnavailable: No engine runs, the engine died, engines died at this request before, or no engine has
                the base model.
        """
        pool = self._pool_for(request.base, request.rank)
        if pool is None:
            raise EngineUnavailable(base_not_served(request.base))
        async with self._suspects.watch(request) as trial:
            replicas = pool.options(method_name="generate", stream=True, multiplexed_model_id=request.digest or "")
            has_reported_admission = has_output = False
            retry_after_s = REPLICA_START_S
            for _ in range(MAX_ATTEMPTS):
                is_admitted = has_generated = False
                outputs: Any = replicas.remote(request)
                try:
                    async for output in self._while_replicas_run(request, outputs, pool.deployment_name):
                        if isinstance(output, EngineDied):
                            retry_after_s = output.retry_after_s
                            avoid_replica(output.replica, AVOID_S)
                            break
                        if isinstance(output, AdmissionInfo):
                            is_admitted = True
                            if has_reported_admission:
                                continue
                            has_reported_admission = True
                        elif isinstance(output, FullResponse):
                            has_output = True
                            trial.record_end()  # now, because the gateway asks for nothing after a full response
                        else:
                            has_output |= bool(output.text)
                            if output.tokens.generated:
                                has_generated = True
                                trial.end_turn()
                        yield output
                    else:
                        trial.record_end()
                        return
                except _NoReplica:
                    break
                except _NotAccepted:
                    log.warning("no replica has accepted request %s in time", request.body.get("request_id"))
                except RayActorError:
                    retry_after_s = REPLICA_START_S
                finally:
                    # Stop the engine's work if the client went away. This has no effect on a request that has ended.
                    outputs.cancel()
                if is_admitted:
                    log.error("the engine died at request %s", request.body.get("request_id"))
                    trial.record_death()
                if has_output or (is_admitted and not has_generated):
                    raise EngineUnavailable(engine_died(retry_after_s))
            raise EngineUnavailable(engine_gone(retry_after_s))

    async def _while_replicas_run(
        self, request: EngineRequest, outputs: Any, deployment: str
    ) -> AsyncGenerator[Any, None]:
        """Pass outputs on. Raise if no replica runs that could begin with the request, or if none accepts it.

        Ray Serve lets a request wait for a replica without a limit, also one whose replica has just died.
        """
        first, started_s, running_s = asyncio.ensure_future(anext(outputs)), time.monotonic(), None
        with expecting_acceptance(request) as is_accepted:
            try:
                while not first.done():
                    replicas, now = count_replicas(deployment), time.monotonic()
                    is_gone = replicas == 0 or (replicas is None and now - started_s >= MAX_START_WAIT_S)
                    if is_gone and deployment not in self._from_zero:
                        raise _NoReplica
                    running_s = (running_s or now) if replicas else None
                    if running_s and now - running_s >= MAX_ACCEPT_WAIT_S and not is_accepted():
                        raise _NotAccepted
                    await asyncio.wait([first], timeout=CHECK_INTERVAL_S)
            finally:
                first.cancel()
        yield await first
        async for output in outputs:
            yield output


class _NoReplica(Exception):
    """A pool that always has replicas has none."""


class _NotAccepted(Exception):
    """Replicas run, and none has accepted the request."""
