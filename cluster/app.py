"""Builds Looper as one Ray Serve application: gateways, pools of engines and the control loop.

All ways up use it: the head process on a private Ray, ``looper up --address``, and Ray Serve itself, which imports
``looper.cluster.app:build`` for ``serve deploy`` and on KubeRay.
"""

from typing import Any

import ray
from ray import serve

from looper.basemodel.node_copies import BaseModelSource, publish_base
from looper.basemodel.prepare import prepare_base
from looper.cluster.control_loop import build_control_loop
from looper.cluster.node_check import is_single_node, require_shared
from looper.platform.domain.errors import InvalidInput
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings, load_settings
from looper.serve.deployment.gpu_defaults import fit_to_gpus
from looper.serve.deployment.ray_app import build_app, plan_cluster
from looper.serve.engine.engine_arguments import check_engine_options


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
    return build_on_cluster(load_settings(**args))


def build_on_cluster(settings: Settings, *, is_private: bool = False) -> serve.Application:
    """Build the application for the Ray cluster that this process is connected to.

    Args:
        settings: Settings of the cluster.
        is_private: Whether the cluster is a private Ray, which has one node and never another.

    Returns:
        The application.

    Raises:
        InvalidInput: The settings cannot work on this cluster.
        StoreUnavailable: The object store, the hub or a disk failed.
    """
    nodes = sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]
    if problem := require_shared(settings, nodes):
        raise InvalidInput(problem)
    check_engine_options(settings.serve.engine)
    folder = prepare_base(settings)
    # Nodes may join later, so the base model is stored wherever they could reach it.
    is_alone = is_private or is_single_node(settings)
    base = BaseModelSource(folder) if is_alone else publish_base(ObjectStore.open(settings), folder)
    plan = plan_cluster(settings)
    settings = fit_to_gpus(settings, folder, plan)
    return build_app(settings, base, plan, [build_control_loop(settings, base)])
