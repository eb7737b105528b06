"""Deploys the Ray Serve application: gateways in front, pools of skill replicas behind them.

``looper up`` and the demo call ``deploy``. Each replica is a process of its own. This module, and so the processes of
the gateway and of the deployer, imports neither torch nor vLLM.
"""

import hashlib
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import ray
from fastapi import FastAPI
from prometheus_client.metrics_core import Metric
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig
from ray.serve.handle import DeploymentHandle

from looper.basemodel.node_copies import BaseModelSource
from looper.platform.catalog import Catalog
from looper.platform.domain.errors import LooperError
from looper.platform.domain.names import InstanceName
from looper.platform.domain.private_files import keep_files_private
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import PoolSettings, Settings
from looper.platform.settings.gpu_plan import GpuPlan, count_by_type, count_gpus, plan_gpus, require_type
from looper.platform.settings.roles import require_role
from looper.serve.deployment.drain_watcher import DrainWatcher, list_drained_nodes
from looper.serve.deployment.engine_client import PooledEngineClient
from looper.serve.deployment.gateway_peers import RayGatewayPeers
from looper.serve.deployment.loopback import bind_replica_to_node
from looper.serve.deployment.skill_replica import SkillReplica
from looper.serve.deployment.tls import base_url, http_options, trust_own_certificate
from looper.serve.gateway.app import build_gateway
from looper.serve.gateway.gateway_counts import GatewayCounts
from looper.serve.gateway.request_log import configure_json_logging
from looper.serve.gateway.request_recorder import VersionStats
from looper.serve.routing.autoscaling import DOWNSCALE_DELAY_S, LOOK_BACK_S, UPSCALE_DELAY_S
from looper.serve.routing.known_replicas import APP_NAME, GATEWAY_NAME
from looper.serve.tracing import configure_tracing

MAX_ONGOING_REQUESTS = 4096
"""Number of requests that Ray Serve sends to one replica at a time. The engine's own admission queue orders them."""


@serve.ingress()
class GatewayReplica:
    """A gateway behind Ray Serve's HTTP proxy.

    Args:
        settings: Settings of the cluster.
        pools: Handles of the pools of skill replicas, by base model and the maximum rank that each serves.
        beside: Handles of other deployments of the application. No request passes through them, but Ray Serve deploys
            only what its ingress is bound to.
    """

    def __init__(
        self,
        settings: Settings,
        pools: Mapping[str, Mapping[int, DeploymentHandle[Any]]],
        beside: Sequence[DeploymentHandle[Any]] = (),
    ) -> None:
        bind_replica_to_node()
        self._settings = settings
        self._engine = PooledEngineClient(pools, pools_from_zero(settings))
        self._counts = GatewayCounts()

    async def __serve_build_asgi_app__(self) -> FastAPI:
        keep_files_private()
        configure_json_logging()
        configure_tracing("looper-gateway")
        catalog, store = Catalog.open(self._settings), ObjectStore.open(self._settings)
        peers = RayGatewayPeers(APP_NAME, GATEWAY_NAME) if self._settings.serve.gateways > 1 else None
        drain = DrainWatcher(self._engine, list_drained_nodes)
        return build_gateway(
            self._settings, catalog, store, self._engine, counts=self._counts, peers=peers, beside=drain.running
        )

    async def collect_metrics(self) -> tuple[str, list[Metric]]:
        """Return this gateway's id and metrics. ``RayGatewayPeers`` calls it."""
        return self._counts.collect_metrics()

    async def collect_traffic(self, instance: InstanceName) -> Mapping[str, VersionStats]:
        """Return this gateway's statistics of the versions of ``instance``. ``RayGatewayPeers`` calls it."""
        return self._counts.collect_traffic(instance)


def plan_cluster(settings: Settings) -> GpuPlan:
    """Return how the connected Ray cluster's GPUs are divided.

    Args:
        settings: Settings of the cluster.

    Raises:
        InvalidInput: The engines need more GPUs than there are, or others.
    """
    return plan_gpus(count_by_type(ray.nodes()), settings)  # type: ignore[no-untyped-call]


def versioned(replica: type, version: str | None, **options: Any) -> serve.Deployment:
    """Return a deployment whose replicas Ray Serve replaces only when its version or a resource of it changes.

    Args:
        replica: Class of the replicas.
        version: What the replicas are made from. None: they are replaced at each deployment.
        options: Options of ``serve.deployment``.

    Returns:
        The deployment.
    """
    deployment: serve.Deployment = serve.deployment(**options)(replica)
    return deployment.options(version=version, _internal=True) if version else deployment


def build_app(
    settings: Settings,
    bases: Mapping[str, BaseModelSource],
    gpus: GpuPlan,
    beside: Sequence[serve.Application] = (),
    versions: Mapping[str, str] = MappingProxyType({}),
) -> serve.Application:
    """Build the Ray Serve application.

    Args:
        settings: Settings of the cluster.
        bases: The base models of the settings, by name.
        gpus: What engines have of the cluster's GPUs.
        beside: Other deployments of the application, through which no request passes.
        versions: What each deployment is made from, by its name, as ``versioned`` takes it.

    Returns:
        The application.
    """
    pools: dict[str, dict[int, serve.Application]] = {name: {} for name in settings.base_names}
    for name, pool in list_pools(settings):
        pools[name][pool.max_lora_rank] = _build_pool(settings, name, pool, bases[name], gpus, versions)
    gateway = versioned(
        GatewayReplica,
        versions.get(GATEWAY_NAME),
        name=GATEWAY_NAME,
        num_replicas=settings.serve.gateways,
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        ray_actor_options={"num_cpus": 0, "resources": require_role(settings.roles.gateways)},
        request_router_config=RequestRouterConfig(
            request_router_class="looper.serve.routing.gateway_router.GatewayRouter",  # type: ignore[arg-type]  # as below
        ),
        graceful_shutdown_timeout_s=settings.serve.graceful_shutdown_timeout_s,
        max_surge_percent=100,
    )
    return gateway.bind(settings, pools, list(beside))


def _build_pool(
    settings: Settings,
    name: str,
    pool: PoolSettings,
    base: BaseModelSource,
    gpus: GpuPlan,
    versions: Mapping[str, str],
) -> serve.Application:
    deployment, settings = pool_name(settings, name, pool), settings.for_base(name)
    role = require_role(settings.roles.engines)
    bundles: list[dict[str, float]] = [{"CPU": 1, **role}]
    gpu_share = gpus.engine_share(pool)
    if gpu_share:  # the replica is in the first bundle, and vLLM's workers take the GPUs of all
        gpu = {"GPU": gpu_share, **require_type(pool.accelerator_type)}
        bundles = [{"CPU": 1, **role, **gpu}, *[gpu] * (count_gpus(settings.serve.engine) - 1)]
    is_autoscaled = pool.max_replicas is not None and pool.max_replicas > pool.replicas
    return versioned(
        SkillReplica,
        versions.get(deployment),
        name=deployment,
        num_replicas=None if is_autoscaled else pool.replicas,
        autoscaling_config=_autoscaling_config(pool) if is_autoscaled else None,
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        placement_group_bundles=bundles,
        ray_actor_options={"num_cpus": 1},
        health_check_timeout_s=60,
        request_router_config=RequestRouterConfig(
            request_router_class="looper.serve.routing.replica_router.AdapterAffinityRouter",  # type: ignore[arg-type]  # Ray accepts an import path, but its annotation does not
            request_router_kwargs={"max_num_seqs": settings.serve.seats},
        ),
        graceful_shutdown_timeout_s=settings.serve.graceful_shutdown_timeout_s,
        max_surge_percent=settings.serve.surge_percent,
    ).bind(settings, pool, base, gpu_share)


def pool_name(settings: Settings, base: str, pool: PoolSettings) -> str:
    """Return the name of a pool's deployment in Ray Serve.

    Args:
        settings: Settings of the cluster.
        base: Base model of the pool. The pools of the first one are named by their rank alone.
        pool: The pool.
    """
    if base == settings.base:
        return f"skills-r{pool.max_lora_rank}"
    # The last part of a path or of a hub's name tells which one it is, and may be the same for two.
    label = re.sub("[^a-z0-9]+", "-", Path(base).name.lower())[:40].strip("-")
    return f"skills-{label}-{hashlib.sha256(base.encode()).hexdigest()[:6]}-r{pool.max_lora_rank}"


def list_pools(settings: Settings) -> Iterator[tuple[str, PoolSettings]]:
    """Yield the pools of all base models, each with its base model.

    Args:
        settings: Settings of the cluster.
    """
    for name in settings.base_names:
        for pool in settings.for_base(name).serve.all_pools:
            yield name, pool


def pools_from_zero(settings: Settings) -> list[str]:
    """Return the names of the pools that have no replica while there are no requests.

    Args:
        settings: Settings of the cluster.
    """
    return [pool_name(settings, base, pool) for base, pool in list_pools(settings) if pool.replicas == 0]


def connect_to_engines(settings: Settings) -> PooledEngineClient:
    """Return a client of the engines that ``deploy`` started, for any process of the same Ray cluster.

    Args:
        settings: Settings of the cluster.

    Returns:
        The client.
    """
    handles: dict[str, dict[int, DeploymentHandle[Any]]] = {name: {} for name in settings.base_names}
    for base, pool in list_pools(settings):
        name = pool_name(settings, base, pool)
        handles[base][pool.max_lora_rank] = serve.get_deployment_handle(name, APP_NAME)
    return PooledEngineClient(handles, pools_from_zero(settings))


def _autoscaling_config(pool: PoolSettings) -> AutoscalingConfig:
    return AutoscalingConfig(
        min_replicas=pool.replicas,
        max_replicas=pool.max_replicas,
        upscale_delay_s=UPSCALE_DELAY_S,
        downscale_delay_s=DOWNSCALE_DELAY_S,
        look_back_period_s=LOOK_BACK_S,
        policy=AutoscalingPolicy(policy_function="looper.serve.routing.autoscaling:EngineCountPolicy"),  # type: ignore[no-untyped-call]
    )


def deploy(settings: Settings, app: serve.Application) -> str:
    """Deploy the application on the Ray cluster that this process is connected to, and wait until it responds.

    Args:
        settings: Settings of the cluster.
        app: The application.

    Returns:
        Base URL of the API.

    Raises:
        LooperError: The application did not start; the message has Ray's reason.
    """
    port = settings.serve.port or find_free_port(settings.serve.host)
    url = base_url(settings.serve, port)
    try:
        serve.start(http_options=http_options(settings.serve, port))
        serve.run(app, name=APP_NAME, route_prefix="/")
        verify = trust_own_certificate(settings.serve)
        httpx.get(f"{url}/healthz", timeout=30, verify=verify).raise_for_status()
    except (RuntimeError, ValueError, OSError, httpx.HTTPError) as error:
        served = ", ".join(settings.base_names)
        raise LooperError(
            f"the server for {served} on {url} did not start: {error}; Ray's logs have more details"
        ) from error
    return url


def find_free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port on which nothing listens now.

    Args:
        host: Address to look at.

    Returns:
        The port.
    """
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
