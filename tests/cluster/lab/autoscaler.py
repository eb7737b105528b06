"""Ray's autoscaler in a lab: the head starts engine nodes as they are needed, and takes idle ones away.

``FAKE`` nodes are raylets beside the head, in its namespaces, from Ray's own provider for tests. ``REAL`` ones are the
lab's other machines, which ``NodeStarter`` starts and kills as ``node_provider.LabNodeProvider`` asks for it. Both use
Ray's first autoscaler: its second one launches no fake nodes.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tests.cluster.lab.deployed import SMALL_ENGINES
from tests.cluster.lab.lab import Lab
from tests.cluster.lab.node import RAY_PORT, Node

FAKE, REAL = "fake", "real"
ENGINES = "looper_engines"
HEAD_ROLES = {"looper_gateways": 1000, "looper_control": 1000}
IDLE_TIMEOUT_S = 6.0
"""An idle node is taken away after this time, in seconds."""

BOOT_S = 15.0
"""Time in which a real node boots before Ray starts on it, in seconds."""

_OBJECT_STORE_MB = 100
_CHECK_INTERVAL_S = 0.2


def start_autoscaled_ray(lab: Lab, nodes: str, max_nodes: int) -> None:
    """Start the head on the first node. It has no CPUs, and the roles of gateways and control loop.

    Args:
        lab: The lab.
        nodes: ``FAKE`` or ``REAL``: what engine nodes are.
        max_nodes: Maximum number of engine nodes, each with one CPU.
    """
    head = lab.nodes[0]
    provider: dict[str, Any] = {
        FAKE: {"type": "fake_multinode", "use_node_id_as_ip": True, "gcs_address": f"{head.address}:{RAY_PORT}"},
        REAL: {
            "type": "external",
            "module": "tests.cluster.lab.node_provider.LabNodeProvider",
            "folder": str(head.home / "wanted"),
            "nodes": {node.name: node.address for node in lab.nodes[: max_nodes + 1]},
        },
    }[nodes]
    engine = {"CPU": 1, ENGINES: 1000, **({"object_store_memory": _OBJECT_STORE_MB * 2**20} if nodes == FAKE else {})}
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    config = {
        "cluster_name": "lab",
        "max_workers": max_nodes,
        "idle_timeout_minutes": IDLE_TIMEOUT_S / 60,
        "upscaling_speed": 1.0,
        "provider": {**provider, "disable_node_updaters": True, "disable_launch_config_check": True},
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "engines": {"resources": engine, "node_config": {}, "min_workers": 0, "max_workers": max_nodes},
        },
        **{f"{name}_commands": [] for name in commands},
    }
    (head.folder / "home/autoscaler.yaml").write_text(json.dumps(config))
    (head.folder / "home/wanted").mkdir()
    head.start_ray(
        cpus=0,
        resources=HEAD_ROLES,
        arguments=[f"--autoscaling-config={head.home}/autoscaler.yaml"],
        environment={"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_enable_autoscaler_v2": "0"},
    )


class NodeStarter:
    """Starts Ray on the nodes that ``LabNodeProvider`` asks for, and kills those that it wants no more."""

    def __init__(self, lab: Lab) -> None:
        self._head, *self._nodes = lab.nodes
        self._wanted = self._head.folder / "home/wanted"
        self._ended = threading.Event()
        self.started: dict[str, int] = {}
        """How often each node was started."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Do so while the context is open, each node in a thread of its own."""
        threads = [threading.Thread(target=self._follow, args=(node,)) for node in self._nodes]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            for thread in threads:
                thread.join()

    def _follow(self, node: Node) -> None:
        wanted, up = self._wanted / f"{node.name}.json", self._wanted / f"{node.name}.up"
        while not self._ended.wait(_CHECK_INTERVAL_S):  # files tell nobody when they change
            if wanted.exists() and not up.exists():
                self._ended.wait(BOOT_S)
                node.start_ray(self._head, cpus=1, resources={ENGINES: 1000})
                self.started[node.name] = self.started.get(node.name, 0) + 1
                up.touch()
            elif up.exists() and not wanted.exists():
                node.kill()
                node.restart()
                up.unlink()


def settings(max_engines: int) -> Mapping[str, str]:
    """Return settings, as environment variables, with engines from zero and small ones."""
    return {
        "LOOPER_ROLES__GATEWAYS": "looper_gateways",
        "LOOPER_ROLES__CONTROL": "looper_control",
        "LOOPER_ROLES__ENGINES": ENGINES,
        "LOOPER_ROLES__TRAINERS": "looper_trainers",
        "LOOPER_ROLES__DATA": "looper_data",
        "LOOPER_SERVE__REPLICAS": "0",
        "LOOPER_SERVE__MAX_REPLICAS": f"{max_engines}",
        "LOOPER_SERVE__MAX_NUM_SEQS": "2",
        "LOOPER_SERVE__MAX_CONCURRENT_REQUESTS": "2000",
        **SMALL_ENGINES,
    }
