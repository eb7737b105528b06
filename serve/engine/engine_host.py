"""Keeps an engine running in a replica: when the engine's core dies, it starts another one in the same process.

Everything that a new replica would do first is done already: the process has imported vLLM, and so has its fork server;
the adapters on disk stay. Until the new core runs, and for the requests that the old one took with it, ``generate``
yields ``EngineDied``, and the gateway decides what becomes of the request.

``skill_replica.SkillReplica`` creates it. Imports vLLM, and so is imported only in a replica's own process.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from looper.serve.engine.core_process import end_waiting, fork_cores, watch_core
from looper.serve.engine.crash_record import RunningRequest, write_crash_record
from looper.serve.engine.engine_setup import EngineSetup
from looper.serve.engine.skill_server import SkillServer
from looper.serve.protocol import AdmissionInfo, EngineDied, EngineOutput, EngineRequest, FullResponse

MAX_RETRY_AFTER_S = 10.0
"""Longest time that a client is told to wait, in seconds. The first start takes longer than those after a death."""

log = logging.getLogger(__name__)


class EngineHost:
    """A skill server, and another one when its engine has died. Create it with ``open``."""

    def __init__(self, setup: EngineSetup, replica: str) -> None:
        """Store what is needed for each start of the engine. ``open`` starts the first one.

        Args:
            setup: How to start an engine.
            replica: Id of the replica.
        """
        self._setup = setup
        self._crashes = setup.settings.home / "crashes"
        self._replica = replica
        self._server: SkillServer | None = None  # None while the engine is started again
        self._last_server: SkillServer
        self._running: dict[int, RunningRequest] = {}
        self._start_s = 0.0  # how long the last start took
        self._died_at = 0.0
        self._restart: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, setup: EngineSetup, replica: str) -> "EngineHost":
        """Start an engine. This takes as long as vLLM takes to start.

        Args:
            setup: How to start an engine.
            replica: Id of the replica.

        Returns:
            The host with its running engine.
        """
        fork_cores()
        host = cls(setup, replica)
        await host._start(None)
        return host

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineOutput | EngineDied, None]:
        """Run a request on the engine.

        Args:
            request: The request.

        Yields:
            Outputs in the order that ``EngineOutput`` describes. Last an ``EngineDied``, if the engine is dead.
        """
        server = self._server
        if server is None:
            yield self._died()
            return
        running = RunningRequest(request)
        self._running[id(running)] = running
        try:
            async with aclosing(server.generate(request)) as outputs:
                async for output in outputs:
                    is_result = isinstance(output, FullResponse) and output.status < 500
                    if not is_result and self._is_dead(server):
                        break
                    if isinstance(output, AdmissionInfo):
                        running.is_admitted = True
                    elif output.tokens:
                        running.tokens = output.tokens
                    yield output
                else:
                    return
            self._replace(server)
        except Exception as error:
            if not self._is_dead(server, error):
                raise
            self._replace(server)
        finally:
            del self._running[id(running)]
        yield self._died()

    async def prefetch(self, digest: str, hold_s: float) -> None:
        """Load an adapter into host memory. A failure is logged and not raised.

        Args:
            digest: Digest of the adapter.
            hold_s: Minimum time for which it stays there, in seconds.
        """
        if (server := self._server) is None:
            return
        try:
            await server.prefetch(digest, hold_s)
        except Exception as error:
            if not self._is_dead(server, error):
                raise

    def list_adapters(self) -> list[str]:
        """Return the digests of the adapters in host memory, the most recently used first."""
        return self._last_server.list_adapters()

    async def check_health(self) -> None:
        """Raise if the engine is broken but its core has not ended. The host replaces a core that has ended."""
        if self._server is not None:
            await self._server.check_health()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the load for ``routing.autoscaling``, also while the engine is started again."""
        return await self._last_server.record_autoscaling_stats()

    def _is_dead(self, server: SkillServer, error: Exception | None = None) -> bool:
        # This host and vLLM notice a death independently of each other. The connection to a worker's memory may be lost
        # before either has.
        is_lost = isinstance(error, ConnectionError)
        return is_lost or self._server is not server or bool(server.client.errored)

    def _died(self) -> EngineDied:
        elapsed_s = time.monotonic() - self._died_at
        return EngineDied(self._replica, min(MAX_RETRY_AFTER_S, max(1.0, self._start_s - elapsed_s)))

    async def _start(self, predecessor: SkillServer | None) -> None:
        started_s = time.monotonic()
        server = await SkillServer.open(self._setup, predecessor)
        self._start_s = time.monotonic() - started_s
        self._server = self._last_server = server
        watch_core(server.client, lambda: self._replace(server))

    def _replace(self, dead: SkillServer) -> None:
        """Start another engine instead of a dead one. Do nothing if that has been done: several may notice a death."""
        if self._server is not dead:
            return
        self._died_at, self._server = time.monotonic(), None
        end_waiting(dead.client)
        suspects = [running for running in self._running.values() if running.is_admitted]
        self._restart = asyncio.create_task(self._start_again(dead, suspects))

    async def _start_again(self, dead: SkillServer, suspects: list[RunningRequest]) -> None:
        try:
            record = await asyncio.to_thread(write_crash_record, self._crashes, self._replica, suspects)
            log.error("the engine died while it worked on %d requests, which are in %s", len(suspects), record)
        except OSError:
            log.exception("the engine died while it worked on %d requests, which cannot be written down", len(suspects))
        with suppress(Exception):  # most of it is gone
            await asyncio.to_thread(dead.client.shutdown)
        try:
            await self._start(dead)
        except Exception:
            log.exception("the engine could not be started again: this replica ends, and Ray Serve starts another")
            os._exit(1)  # at once, whatever the engine has left behind
        log.warning("the engine runs again, %.1f s after its death", time.monotonic() - self._died_at)
