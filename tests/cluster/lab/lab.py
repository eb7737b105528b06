"""The lab: a machine for the services with a bridge in it, and the nodes that are connected to the bridge."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cluster.lab.machine import NAMESPACES, Machine
from tests.cluster.lab.node import Node
from tests.cluster.lab.services import Services

# 198.51.100.0/24 is for documentation (RFC 5737): no machine that matters can have such an address.
SERVICES_ADDRESS = "198.51.100.1"
NODE_ADDRESS = "198.51.100.1{}"
PROGRAMS = ("unshare", "nsenter", "setpriv", "pivot_root", "ip", "bridge")
PROBE = "mount -t sysfs -o ro sysfs /mnt && ip link add br0 type bridge && ip link add v0 type veth peer name v1"


def why_no_lab() -> str | None:
    """Return why this machine cannot have a lab, or None if it can."""
    if os.geteuid() != 0:
        return "not root"
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        return f"no {missing[0]} (Debian: apt-get install util-linux iproute2)"
    probe = ["unshare", *NAMESPACES, "--fork", "--mount-proc", "sh", "-c", PROBE]
    if subprocess.run(probe, capture_output=True).returncode:
        return "not permitted, as in a container without CAP_SYS_ADMIN"
    return None


class Lab:
    """Nodes with the addresses ``198.51.100.10``, ``.11`` and so on, and the services at ``198.51.100.1``.

    The machines also end when the process that holds the lab ends in any way, because each waits for just that. Their
    namespaces have no names and their interfaces are in no other namespace, so nothing is left of them, and several
    labs can have the same addresses at the same time.
    """

    def __init__(self, folder: Path, nodes: int) -> None:
        """Describe a lab, which ``with`` starts. Where namespaces cannot be had, ``with`` skips the test.

        Args:
            folder: A new folder for the machines' files and logs.
            nodes: How many nodes, at most 10.
        """
        self._folder = folder
        self._addresses = {f"node{i}": NODE_ADDRESS.format(i) for i in range(nodes)}
        self._started: list[Machine] = []
        self.nodes: list[Node] = []
        """The nodes: ``node0`` and so on."""

    def __enter__(self) -> "Lab":
        if reason := why_no_lab():
            pytest.skip(f"namespaces: {reason}")
        hosts = {"services": SERVICES_ADDRESS} | self._addresses
        try:
            self.services = Services("services", SERVICES_ADDRESS, self._folder / "services", hosts)
            self._started.append(self.services)
            self.services.create_bridge()
            for name, address in self._addresses.items():
                self.nodes.append(Node(name, address, self._folder / name, hosts, self.services))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        for machine in (*self.nodes, *self._started):
            machine.kill()
