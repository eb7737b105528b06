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
from looper.serve.deployment.ray_app import list_pools, pool_name, pools_from_zero
from looper.serve.routing.known_replicas import GATEWAY_NAME

_ROOMS = ("platform", "basemodel", "jobs", "serve", "cluster")
"""What runs on a cluster."""

_IN_PLACE = ("replicas", "max_replicas", "surge_percent", "graceful_shutdown_timeout_s")
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
    work = {name: tree[name] for name in ("synthesis", "consolidation", "bases", "roles", "cluster")}
    work["cluster"] = _without(work["cluster"], ["control_loops"])
    is_only_engine = settings.max_engines == 1  # it has the cores for itself
    for_engines = {name: _engine_settings(settings.for_base(name)) for name in settings.base_names}
    versions = {
        pool_name(settings, base, pool): _digest(looper, for_engines[base], pool.max_lora_rank, is_only_engine)
        for base, pool in list_pools(settings)
    }
    versions[GATEWAY_NAME] = _digest(looper, _without(tree, ("synthesis", "cluster")))
    # Requests wait for an engine where there may be none, and else they are refused.
    versions[control_loop.NAME] = _digest(looper, for_engines, work, pools_from_zero(settings))
    return versions


def _engine_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings that the engines of the first base model use, as JSON."""
    tree = settings.model_dump(mode="json")
    serve = _without(tree["serve"], (*_IN_PLACE, *_OF_GATEWAYS))
    serve["pools"] = [_without(pool, _IN_PLACE) for pool in serve["pools"]]
    return {name: tree[name] for name in ("home", "base", "store", "catalog")} | {"serve": serve}


def _list_modules(top: Path) -> Iterable[Path]:
    for folder, below, files in os.walk(top):
        below[:] = [name for name in below if name != "__pycache__"]
        yield from (Path(folder, name) for name in files if name.endswith(".py"))


def _without(tree: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: value for name, value in tree.items() if name not in names}


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
