"""Builds Looper as one Ray Serve application: gateways, pools of engines and the control loop.

All ways up use it: the head process on a private Ray, ``looper up --address``, and Ray Serve itself, which imports
``looper.cluster.app:build`` for ``serve deploy`` and on KubeRay.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import ray
from ray import serve
from ray.util.placement_group import placement_group, remove_placement_group

from looper.basemodel.node_copies import BaseModelSource, publish_base
from looper.basemodel.prepare import prepare_bases
from looper.cluster import control_loop
from looper.cluster.cluster_reporter import GPU_GROUP_NAME
from looper.cluster.control_loop import build_control_loop
from looper.cluster.deployment_versions import describe_deployment
from looper.cluster.migration import migrate_catalog
from looper.cluster.several_nodes import find_unshared
from looper.platform.catalog import Catalog
from looper.platform.catalog.cluster_reports import DEPLOYED
from looper.platform.domain.errors import InvalidInput
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings, load_settings
from looper.platform.settings.gpu_plan import GpuPlan, count_by_type, missing_gpus
from looper.serve.deployment.gpu_defaults import fit_to_gpus
from looper.serve.deployment.ray_app import build_app, plan_cluster
from looper.serve.engine.engine_arguments import check_all_engine_options

log = logging.getLogger(__name__)

GPU_TIMEOUT_S = 600.0
"""How long ``build`` waits for nodes with GPUs, in seconds. KubeRay deploys once the head runs, before other nodes."""

GPU_POLL_INTERVAL_S = 5.0
"""Seconds between two looks at the nodes meanwhile."""


def build(args: dict[str, Any]) -> serve.Application:
    """Build the application from the arguments in a Serve config.

    Args:
        args: Settings, as a tree like that of ``looper.yaml``. They override the environment variables ``LOOPER_*`` of
            the node that builds.

    Returns:
        The application.

    Raises:
        InvalidInput: The settings are wrong, or cannot work on this cluster.
        StoreUnavailable: The object store, the hub or a disk failed.
    """
    return build_on_cluster(load_settings(**args), gpu_timeout_s=GPU_TIMEOUT_S)


def build_on_cluster(settings: Settings, *, is_private: bool = False, gpu_timeout_s: float = 0.0) -> serve.Application:
    """Build the application for the Ray cluster that this process is connected to.

    Args:
        settings: Settings of the cluster.
        is_private: Whether the cluster is a private Ray, which has one node and never another.
        gpu_timeout_s: How long to wait for nodes with the GPUs that the settings ask for, in seconds.

    Returns:
        The application.

    Raises:
        InvalidInput: The settings cannot work on this cluster.
        StoreUnavailable: The object store, the hub or a disk failed.
    """
    nodes = sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]
    unshared = find_unshared(settings)
    if nodes > 1 and unshared:
        raise InvalidInput(unshared)
    check_all_engine_options(settings)
    migrate_catalog(settings)
    folders = prepare_bases(settings)
    # Nodes may join later, so base models are stored wherever they could reach them.
    is_alone = is_private or unshared is not None
    bases = {
        name: BaseModelSource(folder) if is_alone else publish_base(ObjectStore.open(settings), folder)
        for name, folder in folders.items()
    }
    plan = _wait_for_gpus(settings, gpu_timeout_s)
    deployed = describe_deployment(settings)
    with closing(Catalog.open(settings)) as catalog:
        catalog.save_cluster_report(DEPLOYED, deployed.model_dump(mode="json"))
    settings = fit_to_gpus(settings, folders, plan)
    loop = build_control_loop(settings, bases, deployed.versions[control_loop.NAME])
    return build_app(settings, bases, plan, [loop], deployed.versions)


def _wait_for_gpus(settings: Settings, timeout_s: float) -> GpuPlan:
    """Return how the GPUs are divided, once those that the settings ask for are there."""
    try:
        return plan_cluster(settings)
    except InvalidInput:
        if not timeout_s:
            raise
    deadline = time.monotonic() + timeout_s
    with _asked_for(missing_gpus(count_by_type(ray.nodes()), settings)):  # type: ignore[no-untyped-call]
        while True:
            try:
                return plan_cluster(settings)
            except InvalidInput as error:
                if time.monotonic() >= deadline:
                    raise
                log.warning("waiting for nodes: %s", error)
                time.sleep(GPU_POLL_INTERVAL_S)


@contextmanager
def _asked_for(gpus: list[dict[str, float]]) -> Iterator[None]:
    """Let Ray's autoscaler know what is missing while the context is open: it adds nodes only for what waits."""
    group = placement_group(gpus, name=GPU_GROUP_NAME) if gpus else None
    try:
        yield
    finally:
        if group:
            remove_placement_group(group)
