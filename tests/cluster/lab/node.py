"""A node of the lab: Ray, sshd, and the faults that a node of a cluster can have."""

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from typing_extensions import override

from looper.serve.deployment.ray_environment import RAY_ENVIRONMENT
from tests.chaos.clock import MovableClock
from tests.cluster.lab.machine import Machine
from tests.cluster.lab.services import DISABLED, FORWARDING, Services

RAY_PORT = 6379
ATTEMPTS = 3
"""How often ``start_ray`` tries."""
NOWHERE = "02:00:00:00:00:00"
"""A hardware address that no machine has: the bridge carries packets to it nowhere."""


class Node(Machine):
    """A machine that Ray can run on."""

    def __init__(self, name: str, address: str, folder: Path, hosts: Mapping[str, str], services: Services) -> None:
        """Start the node and connect it to the bridge of ``services``. The other arguments are those of a machine."""
        super().__init__(name, address, folder, hosts)
        self._services = services
        self._clock = MovableClock(folder / "home")
        clock = self._clock.environment
        clock = {key: value.replace(str(folder / "home"), str(self.home)) for key, value in clock.items()}
        # The memory of the nodes is that of one machine, whose use by others must not make Ray kill workers.
        ray = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_memory_monitor_refresh_ms": "0"}
        self.environment |= {**RAY_ENVIRONMENT, **ray, **clock}
        self._services.connect(self.name, self)

    @override
    def kill(self) -> None:
        """Kill all processes at once, as a power cut does: nobody is told that connections end. The files stay."""
        if self.is_running():
            self._services.disconnect(self.name)
        super().kill()

    def restart(self) -> None:
        """Start the node again after ``kill``, without the programs that ran in it. It keeps its home folder only."""
        shutil.rmtree(self.folder / "tmp")
        (self.folder / "tmp").mkdir()
        (self.folder / "tmp").chmod(0o1777)
        self._boot()
        self._services.connect(self.name, self)

    def start_ray(
        self,
        head: "Node | None" = None,
        *,
        cpus: int = 2,
        core: int | None = None,
        resources: Mapping[str, float] | None = None,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start Ray on the node, with the variables of ``RAY_ENVIRONMENT``. It goes on in the background.

        Args:
            head: The node whose Ray this one joins. Default: this one is the head.
            cpus: CPUs that Ray schedules here. They need not exist.
            core: The only core of this machine that Ray's processes run on. Default: they run on any.
            resources: Custom resources. Ray itself adds ``node:ADDRESS``.
            arguments: More arguments of ``ray start``.
            environment: More variables for Ray's processes.

        Raises:
            AssertionError: Ray did not start.
        """
        role = [f"--address={head.address}:{RAY_PORT}"] if head else ["--head", f"--port={RAY_PORT}"]
        if not head and not any("dashboard" in each for each in arguments):
            role.append("--include-dashboard=false")  # it takes some hundred MB
        command = ["taskset", "--cpu-list", f"{core}"] if core is not None else []
        command += [sys.executable, "-m", "ray.scripts.scripts", "start", *role, f"--node-ip-address={self.address}"]
        command += [f"--num-cpus={cpus}", f"--resources={json.dumps(resources or {})}"]
        command += ["--object-store-memory=200000000", "--disable-usage-stats", *arguments]
        # Ray gives its agent 15 s to start, which are not enough beside other tests on the same cores. What a failed
        # attempt leaves behind, such as the server of the head, would make the next one fail too.
        before = set(self.processes())
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            if self.run(command, environment=environment, timeout=120, check=last).returncode == 0:
                return
            left = set(self.processes()) - before
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=10)

    def cut_off(self) -> None:
        """Lose all packets from and to the node, which notices nothing but that nobody answers."""
        self._services.set_port(self.name, DISABLED)

    def cut_off_from(self, other: Machine) -> None:
        """Lose all packets from the node to ``other``, and with them each connection between the two."""
        self.ip(f"neigh replace {other.address} lladdr {NOWHERE} dev eth0 nud permanent")

    def heal(self, other: Machine | None = None) -> None:
        """End what ``cut_off`` did, or ``cut_off_from(other)``."""
        if other is None:
            self._services.set_port(self.name, FORWARDING)
        else:
            self.ip(f"neigh del {other.address} dev eth0")

    def move_clock(self, seconds: int) -> None:
        """Move the time of day of all processes of the node, also of those that run. Without a C compiler, skip."""
        if not self._clock.environment:
            pytest.skip("no C compiler: the clock of a node cannot be moved")
        self._clock.move(seconds)

    @contextmanager
    def full_disk(self, folder: str) -> Iterator[None]:
        """Have no free space in a folder of the node's home while the context is open. What was in it is hidden."""
        path = self.home / folder
        self.run(["mkdir", "-p", path])
        self.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", path])
        self.run(["dd", "if=/dev/zero", f"of={path}/filler", "bs=64k"], check=False)
        try:
            yield
        finally:
            self.run(["umount", "--lazy", path])

    def start_sshd(self, key: Path) -> None:
        """Start sshd, for root with the private ``key``. Its sessions have the node's environment."""
        if not Path("/usr/sbin/sshd").exists():
            pytest.skip("sshd is not installed (Debian: apt-get install openssh-server)")
        ssh = self.folder / "home/.ssh"
        ssh.mkdir(mode=0o700)
        shutil.copy(key, ssh / "id_ed25519")
        shutil.copy(key.with_suffix(".pub"), ssh / "authorized_keys")
        (ssh / "config").write_text("StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\n")
        for file in ssh.iterdir():
            file.chmod(0o600)
        variables = " ".join(f'"{name}={value}"' for name, value in self.environment.items())
        options = {
            "ListenAddress": self.address,
            "HostKey": self.home / ".ssh/id_ed25519",
            "PermitRootLogin": "prohibit-password",
            "UsePAM": "no",
            "PidFile": "none",
            "SetEnv": variables,
        }
        self.run(["mkdir", "-p", "/run/sshd"])
        given = [argument for name, value in options.items() for argument in ("-o", f"{name}={value}")]
        self.start(["/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", *given])
        self.wait_for_port(22)


def create_ssh_key(folder: Path) -> Path:
    """Create a key pair in ``folder``, and return the path of the private key. Without ``ssh-keygen``, skip."""
    if not shutil.which("ssh-keygen"):
        pytest.skip("ssh is not installed (Debian: apt-get install openssh-client)")
    key = folder / "ssh-key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    return key
