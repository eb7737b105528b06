"""The application that Ray Serve runs: gateways in front, skill servers behind them.

The classes here are what Ray starts in processes of their own. This module, and so the gateway's process and the one
that deploys, imports neither torch nor vLLM.
"""

import os
import socket
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from looper.platform.api import control_plane
from looper.platform.catalog import Catalog
from looper.platform.domain.errors import LooperError
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings
from looper.serve.engine import Device, engine_settings
from looper.serve.gateway import gateway
from looper.serve.protocol import Body, Call, Reply

NAME = "looper"
"""Of the Ray Serve application."""

QUEUE = 4096
"""Requests that one process takes at a time. The engine's own scheduler does the queueing."""


class SkillReplica:
    """A skill server, imported where it runs."""

    async def __init__(self, settings: Settings, model_dir: Path, device: Device) -> None:  # type: ignore[misc]
        engine = engine_settings(settings.serve, device, len(os.sched_getaffinity(0)))
        os.environ.update(engine.environment)
        from looper.serve.skill_server import SkillServer

        self._server = await SkillServer.open(settings, model_dir, device, engine)

    async def answer(self, call: Call, body: Body) -> AsyncGenerator[Reply, None]:
        async with aclosing(self._server.answer(call, body)) as replies:
            async for reply in replies:
                yield reply

    async def check_health(self) -> None:
        await self._server.check_health()


class Skills:
    """The skill servers, as the gateway sees them: an Engine over a handle of Ray Serve."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle.options(method_name="answer", stream=True)

    async def answer(self, call: Call, body: Body, digest: str | None) -> AsyncGenerator[Reply, None]:
        replies: Any = self._handle.options(multiplexed_model_id=digest or "").remote(call, body)
        try:
            async for reply in replies:
                yield reply
        finally:
            replies.cancel()  # a client that has gone must not keep the engine busy; no effect on what is complete


@serve.ingress()
class Gateway:
    """The gateway on Ray Serve's HTTP proxy."""

    def __init__(self, settings: Settings, skills: DeploymentHandle[Any]) -> None:
        self._settings = settings
        self._skills = Skills(skills)

    async def __serve_build_asgi_app__(self) -> FastAPI:
        catalog, store = Catalog.open(self._settings), ObjectStore.open(self._settings)
        return gateway(
            base=self._settings.base,
            catalog=catalog,
            engine=self._skills,
            control_plane=control_plane(self._settings, catalog, store),
        )


def pick_device() -> Device:
    """Where engines of the running Ray cluster compute."""
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return "gpu" if resources.get("GPU", 0) >= 1 else "cpu"


def build_app(settings: Settings, model_dir: Path, device: Device) -> serve.Application:
    """The application serving the base model in ``model_dir``, a folder that all machines of the cluster see."""
    skills = serve.deployment(
        name="skills",
        num_replicas=settings.serve.replicas,
        max_ongoing_requests=QUEUE,
        placement_group_bundles=[{"CPU": 1, "GPU": 1} if device == "gpu" else {"CPU": 1}],
        ray_actor_options={"num_cpus": 1},
        health_check_timeout_s=60,
    )(SkillReplica).bind(settings, model_dir.resolve(), device)
    front = serve.deployment(name="gateway", max_ongoing_requests=QUEUE, ray_actor_options={"num_cpus": 0})
    return front(Gateway).bind(settings, skills)


def deploy(settings: Settings, model_dir: Path) -> str:
    """Serve on the Ray cluster that this process is connected to; return the base URL once it answers.

    Raises LooperError with Ray's reason if it does not start.
    """
    host, port = settings.serve.host, settings.serve.port or _free_port(settings.serve.host)
    url = f"http://{host}:{port}"
    try:
        serve.start(http_options={"host": host, "port": port})
        serve.run(build_app(settings, model_dir, pick_device()), name=NAME, route_prefix="/")
        httpx.get(f"{url}/healthz", timeout=30).raise_for_status()
    except (RuntimeError, httpx.HTTPError) as error:
        raise LooperError(f"serving {settings.base} on {url} did not start: {error}; Ray's logs say more") from error
    return url


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
