"""Makes the reports of ``looper.platform.domain.cluster_report`` by asking Ray. The leading control loop runs it."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import ray
from ray import serve

from looper.cluster.node_check import check_nodes
from looper.cluster.several_nodes import find_unshared
from looper.platform.catalog import Catalog
from looper.platform.catalog.cluster_reports import REPORT
from looper.platform.domain.cluster_report import ClusterReport, DeploymentReport, NodeReport, Wait
from looper.platform.domain.errors import StoreUnavailable
from looper.platform.settings import Settings
from looper.serve.routing.known_replicas import APP_NAME

log = logging.getLogger(__name__)

GPU_GROUP_NAME = "looper-gpus"
"""Name of the placement group with which the builder asks Ray for GPUs that are not there yet."""

REPORT_INTERVAL_S = 5.0
"""Seconds between two reports."""

CHECK_INTERVAL_S = 60.0
"""Seconds between two looks at each node from within. New nodes are looked at with the next report."""

PATIENCE_S = 10.0
"""Time within which Ray places what it has room for, in seconds. What waits for longer is reported."""


class ClusterReporter:
    """Makes reports. It remembers since when something waits, and when it has looked at the nodes."""

    def __init__(self, settings: Settings) -> None:
        """Make a reporter for the cluster of ``settings``."""
        self._settings = settings
        self._waiting_since: dict[str, datetime] = {}
        self._problems: dict[str, list[str]] = {}
        self._checked_at = -float("inf")

    def make_report(self) -> ClusterReport:
        """Return how the cluster is now. It asks Ray, and every now and then all nodes."""
        nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        self._check(nodes)
        problems = [problem for node in nodes for problem in self._problems.get(node["NodeID"], ())]
        if len(nodes) > 1 and (unshared := find_unshared(self._settings)):
            problems.insert(0, unshared)
        return ClusterReport(
            nodes=[self._report_node(node) for node in nodes],
            deployments=_report_deployments(),
            waiting=self._report_waiting(ray.util.placement_group_table().values()),
            problems=problems,
            ray=ray.__version__,
        )

    def _check(self, nodes: Iterable[Mapping[str, Any]]) -> None:
        if time.monotonic() - self._checked_at >= CHECK_INTERVAL_S:
            self._problems.clear()
            self._checked_at = time.monotonic()
        if new := [node for node in nodes if node["NodeID"] not in self._problems]:
            self._problems |= check_nodes(self._settings, new)

    def _report_node(self, node: Mapping[str, Any]) -> NodeReport:
        resources = node["Resources"]
        types = [name.partition(":")[2] for name in resources if name.startswith("accelerator_type:")]
        roles = self._settings.roles.model_dump()
        return NodeReport(
            name=node["NodeManagerHostname"],
            address=node["NodeManagerAddress"],
            roles=[role for role, resource in roles.items() if resource is None or resources.get(resource)],
            cpus=resources.get("CPU", 0),
            gpus=resources.get("GPU", 0),
            gpu_type=next(iter(types), ""),
            is_head="node:__internal_head__" in resources,
        )

    def _report_waiting(self, groups: Iterable[Mapping[str, Any]]) -> list[Wait]:
        pending = {group["placement_group_id"]: group for group in groups if group["state"] == "PENDING"}
        now = datetime.now(UTC)
        self._waiting_since = {id: self._waiting_since.get(id, now) for id in pending}
        waits = []
        for id, group in pending.items():
            since = self._waiting_since[id]
            if (now - since).total_seconds() >= PATIENCE_S:
                needs: Counter[str] = Counter()
                for bundle in group["bundles"].values():
                    needs.update(bundle)
                waits.append(Wait(what=_name_group(group["name"]), resources=dict(needs), since=since))
        return waits


def report_regularly(settings: Settings, catalog: Catalog, ended: threading.Event) -> None:
    """Write a report into the catalog every few seconds.

    Args:
        settings: Settings of the cluster.
        catalog: Receives the reports.
        ended: Ends this function when it is set.
    """
    reporter = ClusterReporter(settings)
    while not ended.wait(REPORT_INTERVAL_S):
        try:
            catalog.save_cluster_report(REPORT, reporter.make_report().model_dump(mode="json"))
        except StoreUnavailable as error:
            log.warning("no report of the cluster was written: %s", error.detail)
        except Exception:  # Ray raises many types while its head is away; the next report may succeed
            log.exception("no report of the cluster was made")


def _report_deployments() -> list[DeploymentReport]:
    app = serve.status().applications.get(APP_NAME)
    if app is None:
        return []
    return [
        DeploymentReport(
            name=name,
            status=str(deployment.status.value),
            replicas={str(getattr(state, "value", state)): count for state, count in deployment.replica_states.items()},
            message=deployment.message,
        )
        for name, deployment in app.deployments.items()
    ]


def _name_group(name: str) -> str:
    """Return what a placement group is for."""
    if name.startswith("SERVE_REPLICA::"):
        return name.removeprefix("SERVE_REPLICA::").replace("#", " ").removeprefix(f"{APP_NAME} ")
    return "the deployment, for GPUs that it measures" if name == GPU_GROUP_NAME else "a trainer"
