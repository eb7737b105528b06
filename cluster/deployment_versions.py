"""What each deployment of Ray Serve is made from. Ray Serve replaces the replicas of those for which it has changed.

Without this, Ray Serve would replace the replicas of all deployments each time that Looper is deployed.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import looper
from looper.cluster import control_loop
from looper.cluster.public_settings import list_public
from looper.platform.catalog.schema import newest_schema
from looper.platform.domain.cluster_report import DeployedFrom
from looper.platform.settings import Settings
from looper.serve.deployment.ray_app import pool_name
from looper.serve.routing.known_replicas import GATEWAY_NAME

_ROOMS = ("platform", "basemodel", "jobs", "serve", "cluster")
"""What runs on a cluster."""

_IN_PLACE = ("replicas", "max_replicas", "surge_percent")
"""Settings of engines that Ray Serve changes in place."""

_OF_GATEWAYS = (
    "gateways",
    "host",
    "port",
    "tls_cert",
    "tls_key",
    "requests_per_minute",
    "tokens_per_minute",
    "max_concurrent_requests",
)
"""Settings in ``serve`` of gateways and of Ray Serve's HTTP proxies."""


@cache
def installed_looper() -> str:
    """Return which Looper is installed here: its version, and a digest of its code, which differs between builds."""
    digest = hashlib.sha256()
    for room in _ROOMS:
        top = next(path for folder in looper.__path__ if (path := Path(folder, room)).is_dir())
        for file in sorted(_list_modules(top)):
            digest.update(f"{file.relative_to(top)}\0".encode() + file.read_bytes())
    return f"{version('looper-skills')} ({digest.hexdigest()[:12]})"


def describe_deployment(settings: Settings) -> DeployedFrom:
    """Return what Looper is deployed from, if it is deployed from here.

    Args:
        settings: Settings of the cluster, as they were given.
    """
    return DeployedFrom(
        looper=installed_looper(),
        schema_revision=str(newest_schema().revision),
        settings=list_public(settings),
        versions=deployment_versions(settings),
    )


def deployment_versions(settings: Settings) -> dict[str, str]:
    """Return what each deployment is made from: a digest of the code and of the settings that its replicas use.

    Args:
        settings: Settings of the cluster, as they were given.

    Returns:
        The digests, by the name of the deployment.
    """
    tree, looper = settings.model_dump(mode="json"), installed_looper()
    serve = _without(tree["serve"], _IN_PLACE)
    serve["pools"] = [_without(pool, _IN_PLACE) for pool in serve["pools"]]
    shared = {name: tree[name] for name in ("home", "base", "store", "catalog")}
    work = {name: tree[name] for name in ("synthesis", "consolidation", "roles", "cluster")}
    work["cluster"] = _without(work["cluster"], ["control_loops"])
    for_engines = shared | {"serve": _without(serve, _OF_GATEWAYS)}
    is_only_engine = settings.serve.max_engines == 1  # it has the cores for itself
    # Requests wait for an engine where there may be none, and else they are refused.
    from_zero = [pool.max_lora_rank for pool in settings.serve.all_pools if pool.replicas == 0]
    versions = {
        pool_name(pool): _digest(looper, for_engines, pool.max_lora_rank, is_only_engine)
        for pool in settings.serve.all_pools
    }
    versions[GATEWAY_NAME] = _digest(looper, _without(tree, ("synthesis", "cluster")))
    versions[control_loop.NAME] = _digest(looper, for_engines, work, from_zero)
    return versions


def _list_modules(top: Path) -> Iterable[Path]:
    for folder, below, files in os.walk(top):
        below[:] = [name for name in below if name != "__pycache__"]
        yield from (Path(folder, name) for name in files if name.endswith(".py"))


def _without(tree: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: value for name, value in tree.items() if name not in names}


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
