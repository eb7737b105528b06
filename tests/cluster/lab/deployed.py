"""Looper over the nodes of a lab: brought up as an operator does, from a node that alone has the base model."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from tests.cluster.lab.lab import Lab
from tests.cluster.lab.machine import Machine
from tests.cluster.lab.node import Node
from tests.serve.marks import single_token_base

PORT = 8000


class WorkerNode(NamedTuple):
    """What a node offers to Ray."""

    cpus: int = 2
    resources: Mapping[str, float] = MappingProxyType({})


class DeployedLooper:
    """Looper in a lab. The operator works on the first node, whose Ray schedules no CPUs."""

    def __init__(
        self, lab: Lab, settings: Mapping[str, str], workers: Sequence[WorkerNode], ray: Mapping[str, str]
    ) -> None:
        """Start the services, Ray on all nodes, and nothing of Looper yet.

        Args:
            lab: The lab.
            settings: Environment variables with settings beside the usual ones.
            workers: What each node but the first offers.
            ray: Environment variables for Ray's processes.
        """
        self.lab = lab
        self._workers, self._ray = dict(zip(lab.nodes[1:], workers, strict=True)), ray
        self.operator: Node = lab.nodes[0]
        base = self.operator.folder / "home" / "base"
        single_token_base(base)
        self.base = self.operator.home / "base"
        self.environment = {
            **lab.services.start_s3(),
            "LOOPER_BASE": str(self.base),
            "LOOPER_CATALOG__URL": lab.services.start_postgresql(),
            "LOOPER_STORE__URL": "s3://lab/looper",
            "LOOPER_SERVE__HOST": "0.0.0.0",
            "LOOPER_SERVE__PORT": str(PORT),
            **settings,
        }
        self.environment["LOOPER_STORE__ENDPOINT_URL"] = self.environment["AWS_ENDPOINT_URL"]
        for node in lab.nodes:
            self.start_ray(node)

    def start_ray(self, node: Node) -> None:
        """Start Ray on a node of the lab, also again after a restart."""
        if node is self.operator:
            node.start_ray(cpus=0, environment=self._ray)
        else:
            worker = self._workers[node]
            node.start_ray(self.operator, cpus=worker.cpus, resources=worker.resources, environment=self._ray)

    def looper(self, *arguments: str, timeout: float = 900, check: bool = True) -> str:
        """Run a command of Looper on the operator's node, and return what it printed."""
        command = ["looper", *arguments]
        done = self.operator.run(command, environment=self.environment, timeout=timeout, check=check)
        return done.stdout + ("" if check else done.stderr)

    def up(self) -> list[str]:
        """Bring Looper up, and return its URLs."""
        return list(json.loads(self.looper("up", "--address", f"{self.operator.address}:6379", "--json"))["urls"])

    def drive(self, *arguments: str, timeout: float = 600) -> Any:
        """Run the driver of ``drive.py`` on the operator's node, and return the JSON that it printed last."""
        return self._drive(self.operator, arguments, timeout)

    def drive_beside(self, *arguments: str, timeout: float = 120) -> Any:
        """Run the driver beside the nodes, on the machine of the services, which has no faults."""
        return self._drive(self.lab.services, arguments, timeout)

    def _drive(self, machine: Machine, arguments: Sequence[str], timeout: float) -> Any:
        command = ["python", "-m", "tests.cluster.lab.drive", *arguments]
        done = machine.run(command, environment=self.environment, timeout=timeout)
        return json.loads(done.stdout.strip().splitlines()[-1])


@contextmanager
def deployed_looper(
    folder: Path,
    workers: Sequence[WorkerNode],
    settings: Mapping[str, str],
    *,
    ray: Mapping[str, str] | None = None,
) -> Iterator[DeployedLooper]:
    """Have a lab with Ray on it, ready for ``looper up``.

    Args:
        folder: A new folder.
        workers: What each node but the first offers.
        settings: Environment variables with settings beside the usual ones.
        ray: Environment variables for Ray's processes.

    Yields:
        The lab.
    """
    with Lab(folder, 1 + len(workers)) as lab:
        yield DeployedLooper(lab, settings, workers, ray or {})
