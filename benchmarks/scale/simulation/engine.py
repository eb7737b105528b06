"""One simulated replica: the real pager and admission queue before an engine that is only a duration.

The duration of a token is linear in what the engine runs (``EngineCosts``, measured in the capacity benchmark). It is
looked at again every few tokens, not at each step as in ``benchmarks/capacity/simulation``, which simulates few engines
exactly.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from math import ceil
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from ray.exceptions import ActorDiedError

from looper.benchmarks.capacity.simulation.simulator import Cluster, EngineCosts
from looper.platform.domain.errors import Overloaded
from looper.serve.cache.pager import Pager
from looper.serve.engine.admission import AdmissionQueue
from looper.serve.error_responses import looper_error_response
from looper.serve.protocol import AdmissionInfo, EngineOutput, EngineRequest, StreamChunk, TokenCounts

TOKENS_PER_UPDATE = 16
"""Tokens that are generated at one speed. The speed is that of what the engine runs at their beginning."""


class EngineProfile(BaseModel):
    """What one engine can do."""

    model_config = ConfigDict(frozen=True)

    costs: EngineCosts
    """Its time costs."""
    size: Cluster
    """Its sequences, slots and cache."""


class _SimulatedTiers:
    """The disk and the host memory of one replica. Loading takes time, and evicting takes none."""

    def __init__(self, costs: EngineCosts) -> None:
        self._costs = costs
        self._staging = asyncio.Lock()  # packing and staging run for one adapter at a time
        self.is_warming = False
        self.downloads = 0

    async def download(self, digest: str) -> Path:
        if not self.is_warming:
            self.downloads += 1
            await asyncio.sleep(self._costs.load - self._costs.reload)
        return Path(digest)

    async def stage(self, digest: str, folder: Path) -> str:
        if not self.is_warming:
            async with self._staging:
                await asyncio.sleep(self._costs.reload)
        return digest

    async def evict(self, digest: str, entry: object) -> None:
        pass


class _SimulatedDisk:
    def __init__(self, tiers: _SimulatedTiers) -> None:
        self.load, self.evict = tiers.download, tiers.evict


class _SimulatedHostMemory:
    def __init__(self, tiers: _SimulatedTiers) -> None:
        self.load, self.evict = tiers.stage, tiers.evict


class SimulatedReplica:
    """A replica that lives until it is killed.

    Args:
        id: Its id.
        profile: What its engine can do.

    Attributes:
        id: Its id.
        node: Number of its node.
        pager: The real pager, over simulated tiers.
        queue: The real admission queue.
        is_alive: Whether it runs.
    """

    def __init__(self, id: str, node: int, profile: EngineProfile) -> None:
        self.id, self.node = id, node
        self._costs, size = profile.costs, profile.size
        self._tiers = _SimulatedTiers(profile.costs)
        self.pager: Pager[str] = Pager(
            _SimulatedDisk(self._tiers),
            _SimulatedHostMemory(self._tiers),
            disk_capacity=size.on_disk,
            host_memory_capacity=size.in_memory,
        )
        self.queue = AdmissionQueue(size.seats, size.slots)
        self._slots, self._step_tokens = size.slots, size.step_tokens
        self._tasks: dict[asyncio.Task[None], asyncio.Queue[EngineOutput | BaseException | None]] = {}
        self.is_alive = True

    @property
    def ongoing(self) -> int:
        """Number of requests that it has."""
        return len(self._tasks)

    @property
    def downloads(self) -> int:
        """Number of adapters that were downloaded since the warm-up."""
        return self._tiers.downloads

    async def warm_up(self, digests: list[str]) -> None:
        """Load adapters without taking time.

        Args:
            digests: The adapters, the one that is to be evicted first at the beginning.
        """
        self._tiers.is_warming = True
        for digest in digests:
            await self.pager.host_memory.get(digest)
        self._tiers.is_warming = False

    async def generate(self, request: EngineRequest) -> AsyncIterator[EngineOutput]:
        """Run a request.

        Args:
            request: The request. Its body has the number of ``output_tokens``.

        Yields:
            What a replica yields, with as many tokens as the body says.

        Raises:
            ActorDiedError: The replica is dead, or dies before the request ends.
        """
        if not self.is_alive:
            raise ActorDiedError
        outputs: asyncio.Queue[EngineOutput | BaseException | None] = asyncio.Queue()
        task = asyncio.create_task(self._run(request, outputs.put_nowait))
        self._tasks[task] = outputs
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        try:
            while (output := await outputs.get()) is not None:
                if isinstance(output, BaseException):
                    raise output
                yield output
        finally:
            task.cancel()

    async def prefetch(self, digest: str, hold_s: float) -> None:
        """Load an adapter, as a prefetch.

        Args:
            digest: The adapter.
            hold_s: Time for which it is not evicted, in seconds.
        """
        if self.is_alive:
            await self.pager.prefetch(digest, hold_s)

    def kill(self) -> None:
        """End the replica. Its requests hear that it died."""
        self.is_alive = False
        for task, outputs in list(self._tasks.items()):
            outputs.put_nowait(ActorDiedError())
            task.cancel()

    async def _run(self, request: EngineRequest, emit: Callable[[EngineOutput | BaseException | None], None]) -> None:
        loop, digest, tenant = asyncio.get_running_loop(), request.digest or "", request.tenant_hash
        tier, prompt, left = (
            self.pager.find_tier(digest),
            request.estimated_prompt_tokens,
            request.body["output_tokens"],
        )
        arrived_s = loop.time()
        try:
            async with self.pager.pin(digest, tenant):
                loaded_s = loop.time()
                async with self.queue.admit(tenant, digest, prompt, max_wait_s=request.max_wait_s) as queued:
                    wait_s = loop.time() - loaded_s
                    emit(AdmissionInfo(tier, loaded_s - arrived_s, wait_s, self.queue.slot_usage, {}))
                    await asyncio.sleep(self._prefill_s(prompt))
                    self.queue.record_generated(queued, 1)
                    emit(StreamChunk("token", TokenCounts(prompt, 1)))
                    left -= 1
                    while left:
                        tokens = min(left, TOKENS_PER_UPDATE)
                        await asyncio.sleep(tokens * self._step_s())
                        self.queue.record_generated(queued, tokens)
                        left -= tokens
                    emit(StreamChunk("tokens", TokenCounts(prompt, request.body["output_tokens"])))
        except Overloaded as error:
            emit(looper_error_response(error))
        emit(None)

    def _prefill_s(self, prompt: int) -> float:
        """Return the time until the first token: the rest of a step, and the steps that read the prompt."""
        steps = ceil(prompt / max(1, self._step_tokens - self.queue.running_seqs))
        return self._costs.prompt_token * prompt + (0.5 + steps) * self._step_s()

    def _step_s(self) -> float:
        costs = self._costs
        adapters = self.queue.slot_usage * self._slots
        return costs.step + costs.sequence * self.queue.running_seqs + costs.adapter * adapters
