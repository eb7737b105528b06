"""The application that Ray Serve runs: gateways in front, skill servers behind them.

The classes here are what Ray starts in processes of their own. This module, and so the gateway's process and the one
that deploys, imports neither torch nor vLLM.
"""

import logging
import os
import socket
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

import httpx
import ray
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig
from ray.serve.handle import DeploymentHandle

from looper.platform.catalog import Catalog
from looper.platform.domain.errors import LooperError
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import PoolSettings, Settings
from looper.serve.cache.cache_sizes import adapted, plan_cache_sizes
from looper.serve.engine.engine_arguments import Device, engine_settings
from looper.serve.gateway.app import gateway
from looper.serve.gateway.request_log import log_as_json
from looper.serve.protocol import AdmissionInfo, EngineRequest, EngineUnavailable, FullResponse, Reply
from looper.serve.tracing import send_traces

log = logging.getLogger(__name__)

NAME = "looper"
"""Of the Ray Serve application."""

TRIES = 3
"""Replicas that a request is given to, one after another, while they die before they say anything."""

QUEUE = 4096
"""Requests that one process takes at a time. The engine's own scheduler does the queueing."""


class SkillReplica:
    """A skill server, imported where it runs."""

    async def __init__(  # type: ignore[misc]
        self, settings: Settings, pool: PoolSettings, model_dir: Path, device: Device
    ) -> None:
        room = plan_cache_sizes(settings.serve, pool, model_dir)
        cores = os.sched_getaffinity(0)
        engine = engine_settings(settings.serve, pool, room.slots, adapted(model_dir), device, cores)
        os.environ.update(engine.environment)
        send_traces("looper-engine")
        with serve_s_log_kept():
            from looper.serve.engine.skill_server import SkillServer

        self._server = await SkillServer.open(settings, pool, room, model_dir, device, engine)

    async def answer(self, ask: EngineRequest) -> AsyncGenerator[Reply, None]:
        with plain_errors():
            async with aclosing(self._server.answer(ask)) as replies:
                async for reply in replies:
                    yield reply

    async def prefetch(self, digest: str, hold_s: float) -> None:
        with plain_errors():
            await self._server.prefetch(digest, hold_s)

    async def check_health(self) -> None:
        await self._server.check_health()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        return await self._server.record_autoscaling_stats()


@contextmanager
def serve_s_log_kept() -> Iterator[None]:
    """Around an import that configures logging, as vLLM's does: Ray Serve's log of this replica keeps its file.

    To configure logging closes every handler of the process, and a MemoryHandler that is closed has lost its target.
    Serve would log no more; and its controller, which asks each replica for its log's path when it is started again,
    would stop this one for not knowing it.
    """
    handlers = logging.getLogger("ray.serve").handlers
    files = [(handler, handler.target) for handler in handlers if isinstance(handler, MemoryHandler)]
    try:
        yield
    finally:
        for handler, file in files:
            handler.setTarget(file)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Whatever is raised inside becomes Python's own: to read vLLM's, the gateway would import it, for seconds."""
    try:
        yield
    except Exception as failure:
        log.exception("the engine failed")
        raise RuntimeError(f"{type(failure).__name__}: {failure}") from None


class PooledEngineClient:
    """The skill servers, as the gateway sees them: an Engine over a handle of Ray Serve for each pool."""

    def __init__(self, pools: Mapping[int, DeploymentHandle[Any]]) -> None:
        """``pools`` by the largest rank that each serves."""
        self._pools = [(rank, pools[rank]) for rank in sorted(pools)]

    def _pool(self, rank: int) -> DeploymentHandle[Any]:
        """The smallest that serves ``rank``. The largest refuses what even it cannot serve."""
        return next((pool for largest, pool in self._pools if rank <= largest), self._pools[-1][1])

    async def prefetch(self, digest: str, rank: int, hold_s: float) -> None:
        try:
            await self._pool(rank).options(method_name="prefetch", multiplexed_model_id=digest).remote(digest, hold_s)
        except RayError as died:
            log.warning("version %s was not prefetched: %s", digest, died)

    async def answer(self, ask: EngineRequest) -> AsyncGenerator[Reply, None]:
        pool = self._pool(ask.rank).options(method_name="answer", stream=True)
        opened = said = False
        for _ in range(TRIES):
            replies: Any = pool.options(multiplexed_model_id=ask.digest or "").remote(ask)
            try:
                async for reply in replies:
                    if isinstance(reply, AdmissionInfo):
                        if opened:
                            continue  # another replica opened it, and died
                        opened = True
                    elif isinstance(reply, FullResponse) or reply.text:
                        said = True
                    yield reply
                return
            except RayActorError:
                if said:
                    raise
            finally:
                replies.cancel()  # a client that has gone must not keep the engine busy; no effect on what is complete
        raise EngineUnavailable("the engine that was to answer died: ask again")


@serve.ingress()
class Gateway:
    """The gateway on Ray Serve's HTTP proxy."""

    def __init__(self, settings: Settings, skills: Mapping[int, DeploymentHandle[Any]]) -> None:
        self._settings = settings
        self._skills = PooledEngineClient(skills)

    async def __serve_build_asgi_app__(self) -> FastAPI:
        log_as_json()
        send_traces("looper-gateway")
        catalog, store = Catalog.open(self._settings), ObjectStore.open(self._settings)
        return gateway(self._settings, catalog, store, self._skills)


def pick_device() -> Device:
    """Where engines of the running Ray cluster compute."""
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return "gpu" if resources.get("GPU", 0) >= 1 else "cpu"


def build_app(settings: Settings, model_dir: Path, device: Device) -> serve.Application:
    """The application serving the base model in ``model_dir``, a folder that all machines of the cluster see."""
    skills = {pool.max_lora_rank: _pool(settings, pool, model_dir, device) for pool in settings.serve.all_pools}
    front = serve.deployment(name="gateway", max_ongoing_requests=QUEUE, ray_actor_options={"num_cpus": 0})
    return front(Gateway).bind(settings, skills)


def _pool(settings: Settings, pool: PoolSettings, model_dir: Path, device: Device) -> serve.Application:
    scaled = pool.max_replicas is not None and pool.max_replicas > pool.replicas
    return serve.deployment(
        name=f"skills-r{pool.max_lora_rank}",
        num_replicas=None if scaled else pool.replicas,
        autoscaling_config=_autoscaling(pool) if scaled else None,
        max_ongoing_requests=QUEUE,
        placement_group_bundles=[{"CPU": 1, "GPU": 1} if device == "gpu" else {"CPU": 1}],
        ray_actor_options={"num_cpus": 1},
        health_check_timeout_s=60,
        request_router_config=RequestRouterConfig(
            request_router_class="looper.serve.routing.replica_router.AdapterAffinityRouter",  # type: ignore[arg-type]  # Ray's is wrong
            request_router_kwargs={"seats": settings.serve.max_num_seqs},
        ),
    )(SkillReplica).bind(settings, pool, model_dir.resolve(), device)


def _autoscaling(pool: PoolSettings) -> AutoscalingConfig:
    return AutoscalingConfig(
        min_replicas=pool.replicas,
        max_replicas=pool.max_replicas,
        upscale_delay_s=2,
        downscale_delay_s=60,
        downscale_to_zero_delay_s=300,
        policy=AutoscalingPolicy(policy_function="looper.serve.routing.autoscaling:autoscaling_policy"),  # type: ignore[no-untyped-call]
    )


def deploy(settings: Settings, model_dir: Path) -> str:
    """Serve on the Ray cluster that this process is connected to; return the base URL once it answers.

    Raises LooperError with Ray's reason if it does not start.
    """
    host, port = settings.serve.host, settings.serve.port or free_port(settings.serve.host)
    url = f"http://{host}:{port}"
    try:
        serve.start(http_options={"host": host, "port": port})
        serve.run(build_app(settings, model_dir, pick_device()), name=NAME, route_prefix="/")
        httpx.get(f"{url}/healthz", timeout=30).raise_for_status()
    except (RuntimeError, httpx.HTTPError) as error:
        raise LooperError(f"serving {settings.base} on {url} did not start: {error}; Ray's logs say more") from error
    return url


def free_port(host: str = "127.0.0.1") -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
