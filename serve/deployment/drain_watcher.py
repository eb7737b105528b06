"""Takes requests away from nodes that are going to end. Each gateway runs it beside its application.

A node is *drained* when a spot instance or an autoscaler's choice is to go: Ray starts nothing there any more. Ray
Serve then starts another replica elsewhere, stops the old one once the new one runs, or shortly before the deadline,
and lets a stopped replica finish. Until then it would go on sending requests to it, and its adapters would be cold
elsewhere. So gateways first prefetch its adapters on the engines that get their requests without it, and then send it
no more requests, as long as there is another engine.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Protocol

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]

from looper.serve.gateway.catalog_poller import run_periodically
from looper.serve.routing import known_replicas

POLL_INTERVAL_S = 1.0
"""Time between two looks at Ray's table of nodes, in seconds."""

MAX_MOVE_S = 10.0
"""Maximum time that requests still go to a node that is drained while its adapters are prefetched, in seconds."""

GCS_TIMEOUT_S = 5.0
"""How long Ray's table may take to answer, in seconds. While it does not, nodes stay as they are known."""

log = logging.getLogger(__name__)


class AdapterMover(Protocol):
    """Moves adapters between engines. ``PooledEngineClient`` implements it."""

    async def move_adapters(self, nodes: Collection[str]) -> None:
        """Prefetch what engines on some nodes have in memory where requests for it will go without those nodes.

        Args:
            nodes: Ids of the nodes.
        """


class DrainWatcher:
    """Knows which nodes are drained, and tells this process's routers through ``known_replicas``.

    Args:
        engines: Moves their adapters.
        list_drained: Returns the ids of the nodes that are drained and have not ended, and may block.
    """

    def __init__(self, engines: AdapterMover, list_drained: Callable[[], Collection[str]]) -> None:
        self._engines = engines
        self._list_drained = list_drained

    async def poll(self) -> None:
        """Look once, and move the adapters of nodes that are drained since the last look."""
        drained = frozenset(await asyncio.to_thread(self._list_drained))
        left = known_replicas.left_nodes()
        if drained == left:
            return
        known_replicas.leave_nodes(drained, left & drained)
        if new := drained - left:
            log.warning("nodes are drained: %s", ", ".join(sorted(new)))
            try:
                async with asyncio.timeout(MAX_MOVE_S):
                    await self._engines.move_adapters(new)
            except TimeoutError:
                log.warning("not all adapters were moved within %g s; their next requests load them", MAX_MOVE_S)
        known_replicas.leave_nodes(drained, drained)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look again and again in the background while the context is open.

        Yields:
            Nothing.
        """
        async with run_periodically(POLL_INTERVAL_S, self.poll):
            yield


def list_drained_nodes() -> list[str]:
    """Return the ids of the nodes of this process's Ray that are drained and have not ended."""
    client = GcsClient(address=ray.get_runtime_context().gcs_address)
    return list(client.get_draining_nodes(timeout=GCS_TIMEOUT_S))
