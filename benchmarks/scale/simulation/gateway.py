"""One simulated gateway: the real engine client, replica selector, rate limiter and prefetcher over simulated calls.

What a gateway knows of the replicas is Ray Serve's own cache of queue lengths: what replicas reported when they
accepted one of its requests, plus what it has sent since.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from ray.serve._private.request_router.common import ReplicaQueueLengthCache

from looper.benchmarks.scale.simulation.catalog import RANK, SimulatedCatalog
from looper.benchmarks.scale.simulation.engine import EngineProfile, SimulatedReplica
from looper.benchmarks.scale.simulation.workload import Arrival
from looper.platform.catalog import Catalog, Quota, RouteTarget
from looper.platform.domain.errors import RateLimited
from looper.serve.deployment.engine_client import PooledEngineClient
from looper.serve.gateway.adapter_prefetcher import AdapterPrefetcher
from looper.serve.gateway.app import DEFAULT_CONCURRENT_PER_SEQUENCE
from looper.serve.gateway.budgets import MemoryBudgets
from looper.serve.gateway.rate_limits import TenantRateLimiter
from looper.serve.protocol import AdmissionInfo, EngineRequest, EngineUnavailable, FullResponse, StreamChunk
from looper.serve.routing import known_replicas
from looper.serve.routing.replica_selector import ReplicaSelector


@dataclass
class RequestOutcome:
    """What became of one request."""

    arrival: Arrival
    """The request."""
    tenant: str
    """Its tenant."""
    result: str = "lost"
    """``answered``, ``refused`` (it was told to come back later) or ``lost`` (its engine died)."""
    tier: str | None = None
    """Where its adapter was found."""
    ttft_s: float | None = None
    """Time to the first token, in seconds."""
    tokens: int = 0
    """Generated tokens."""


class _SimulatedStream:
    """What a handle of Ray Serve returns for a streaming call."""

    def __init__(self, outputs: AsyncIterator[Any]) -> None:
        self._outputs = outputs

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._outputs

    def __anext__(self) -> Any:
        return anext(self._outputs)

    def cancel(self) -> None:
        """End the call. A generator that nobody reads ends with its last reference."""


class _SimulatedHandle:
    """A handle of Ray Serve for the pool, with the router of one gateway."""

    def __init__(self, gateway: "SimulatedGateway", method: str = "generate", digest: str = "") -> None:
        self._gateway, self._method, self._digest = gateway, method, digest
        self.deployment_name = gateway.pool_name

    def options(self, *, method_name: str, multiplexed_model_id: str, stream: bool = False) -> "_SimulatedHandle":
        return _SimulatedHandle(self._gateway, method_name, multiplexed_model_id)

    def remote(self, *args: Any) -> Any:
        if self._method == "prefetch":
            return self._gateway.call_prefetch(self._digest, *args)
        return _SimulatedStream(self._gateway.call_generate(self._digest, *args))


class SimulatedGateway:
    """A gateway.

    Args:
        number: Its number.
        replicas: All replicas by id, as they really are.
        profile: What an engine can do.
        catalog: What the prefetcher polls.
        max_popular: Number of popular adapters that are prefetched.

    Attributes:
        pool_name: Name of the pool in this gateway's process.
        choices: Number of choices of a replica.
        prefetches: Number of prefetches that were sent to replicas.
        prefetcher: The real prefetcher.
    """

    def __init__(
        self,
        number: int,
        replicas: Mapping[str, SimulatedReplica],
        profile: EngineProfile,
        catalog: SimulatedCatalog,
        max_popular: int,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.pool_name = f"simulated-pool-of-gateway-{number}"
        self.choices = self.prefetches = 0
        self._replicas = replicas
        self._known: set[str] = set()
        self._network_s = profile.costs.request / 2
        self._lengths = ReplicaQueueLengthCache(get_curr_time_s=loop.time)
        self._selector = ReplicaSelector(profile.size.seats, cast(Any, self._lengths.get), loop.time)
        self._client = PooledEngineClient({"base": {RANK: cast(Any, _SimulatedHandle(self))}})
        self.prefetcher = AdapterPrefetcher(cast(Catalog, catalog), self._client, max_popular=max_popular)
        self._limiter = TenantRateLimiter(
            Quota(), DEFAULT_CONCURRENT_PER_SEQUENCE * profile.size.seats * max(1, len(replicas)), MemoryBudgets()
        )
        known_replicas.watch(self.pool_name, lambda: len(self._known))

    def update_replicas(self, replicas: set[str]) -> None:
        """Tell the gateway which replicas there are.

        Args:
            replicas: Their ids.
        """
        if replicas != self._known:
            self._known = set(replicas)
            self._lengths.remove_inactive_replicas(active_replica_ids=cast(Any, self._known))
            self._selector.update(self._known)

    async def serve(self, arrival: Arrival, tenant: str, target: RouteTarget, number: int) -> RequestOutcome:
        """Serve one request.

        Args:
            arrival: The request.
            tenant: Its tenant.
            target: The version that it goes to.
            number: A number that no other request has.

        Returns:
            What became of it.
        """
        loop = asyncio.get_running_loop()
        outcome = RequestOutcome(arrival, tenant)
        self.prefetcher.record_request(target)
        request = EngineRequest(
            "chat",
            {"output_tokens": arrival.output_tokens, "number": number},
            target.digest,
            target.rank,
            tenant,
            estimated_prompt_tokens=arrival.prompt_tokens,
        )
        try:
            with self._limiter.track_request(tenant):
                outcome.result = "answered"
                async for output in self._client.generate(request):
                    if isinstance(output, AdmissionInfo):
                        outcome.tier = output.tier
                    elif isinstance(output, StreamChunk):
                        if outcome.ttft_s is None:
                            outcome.ttft_s = loop.time() - arrival.at_s
                        outcome.tokens = output.tokens.generated
                    elif isinstance(output, FullResponse):
                        outcome.result = "refused"
        except RateLimited:
            outcome.result = "refused"
        except EngineUnavailable:
            outcome.result = "lost"
        return outcome

    async def call_generate(self, digest: str, request: EngineRequest) -> AsyncIterator[Any]:
        """Route a request and stream its outputs, as a handle's router does.

        Args:
            digest: Its version.
            request: The request.

        Yields:
            The outputs.
        """
        replica = await self._route(digest)
        self._lengths.update(cast(Any, replica.id), replica.ongoing + 1)  # it reports its queue when it accepts
        try:
            async for output in replica.generate(request):
                yield output
        finally:
            self._count_ended(replica)

    async def call_prefetch(self, digest: str, version: str, hold_s: float) -> None:
        """Route a prefetch.

        Args:
            digest: The version, for the router.
            version: The same version, for the replica.
            hold_s: Time for which it is not evicted, in seconds.
        """
        self.prefetches += 1
        replica = await self._route(digest)
        await replica.prefetch(version, hold_s)
        self._count_ended(replica)

    async def _route(self, digest: str) -> SimulatedReplica:
        self.choices += 1
        while not (chosen := self._selector.select(digest)):  # noqa: ASYNC110 (simulated time)
            await asyncio.sleep(0.025)  # Ray's router waits until it is told of a replica
        replica = chosen[0]
        self._lengths.update(cast(Any, replica), (self._lengths.get(cast(Any, replica)) or 0) + 1)
        await asyncio.sleep(self._network_s)
        return self._replicas[replica]

    def _count_ended(self, replica: SimulatedReplica) -> None:
        left = self._lengths.get(cast(Any, replica.id))
        if left is not None:
            self._lengths.update(cast(Any, replica.id), max(0, left - 1))
        if not replica.is_alive:
            self.update_replicas(self._known - {replica.id})
