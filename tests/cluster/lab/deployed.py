"""Looper over the nodes of a lab: brought up as an operator does, from a node that alone has the base model."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cluster.lab.lab import Lab
from tests.cluster.lab.machine import Machine
from tests.cluster.lab.node import Node
from tests.gate import LENIENT_GATE_ENVIRONMENT
from tests.serve.marks import single_token_base

PORT = 8000

SMALL_ENGINES = {
    "LOOPER_SERVE__MAX_LORA_RANK": "8",
    "LOOPER_SERVE__MAX_MODEL_LEN": "512",
    "LOOPER_SERVE__KV_CACHE_GIB": "0.1",
    "LOOPER_SERVE__LORAS_GIB": "0.05",
    "LOOPER_SERVE__CPU_LORAS_GIB": "0.05",
    "LOOPER_SERVE__DISK_LORAS_GIB": "0.1",
}
"""Settings with which several engines fit on one small machine."""


class DeployedLooper:
    """Looper in a lab. The operator works on the first node, whose Ray schedules no CPUs."""

    def __init__(self, lab: Lab, settings: Mapping[str, str], *, start_ray: bool = True, head_cpus: int = 0) -> None:
        """Start the services, Ray on all nodes, and nothing of Looper yet.

        Args:
            lab: The lab.
            settings: Environment variables with settings beside the usual ones.
            start_ray: Whether to start Ray.
            head_cpus: CPUs that Ray schedules on the first node.
        """
        self.lab = lab
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
            **LENIENT_GATE_ENVIRONMENT,
            **settings,
        }
        self.environment["LOOPER_STORE__ENDPOINT_URL"] = self.environment["AWS_ENDPOINT_URL"]
        for node in lab.nodes if start_ray else ():
            head = None if node is self.operator else self.operator
            node.start_ray(head, cpus=2 if head else head_cpus)

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
    folder: Path, nodes: int, settings: Mapping[str, str], *, start_ray: bool = True, head_cpus: int = 0
) -> Iterator[DeployedLooper]:
    """Have a lab with Ray on it, ready for ``looper up``.

    Args:
        folder: A new folder.
        nodes: Number of nodes.
        settings: Environment variables with settings beside the usual ones.
        start_ray: Whether to start Ray on the nodes.
        head_cpus: CPUs that Ray schedules on the first node.

    Yields:
        The lab.
    """
    with Lab(folder, nodes) as lab:
        yield DeployedLooper(lab, settings, start_ray=start_ray, head_cpus=head_cpus)
