"""The machine with the bridge, PostgreSQL, an S3 server and Redis, each of which starts when a test asks for it."""

import shutil
import subprocess
import sys

import pytest

from tests.cluster.lab.machine import Machine
from tests.platform.postgresql import find_programs

BUCKET = "lab"
S3_ADDRESS = "198.51.100.2"
"""An address of its own, so that a node can lose the object store alone."""
DISABLED, FORWARDING = 0, 3
"""States of a port of a bridge, as in Linux's ``if_bridge.h``."""


class Services(Machine):
    """The machine that all nodes share. It has a switch's ports and is not cut off or restarted."""

    def create_bridge(self) -> None:
        """Create the bridge, which has the machine's address."""
        self.ip(
            "link set lo up",
            "link add bridge0 type bridge",
            f"addr add {self.address}/24 dev bridge0",
            f"addr add {S3_ADDRESS}/24 dev bridge0",
            "link set bridge0 up",
        )

    def connect(self, port: str, machine: Machine) -> None:
        """Put a network interface with the machine's address into ``machine``, and its other end into the bridge."""
        # Others keep the hardware address in mind, so it is the same after a restart, as that of a real machine.
        hardware = "02:00:" + ":".join(f"{int(part):02x}" for part in machine.address.split("."))
        self.ip(
            f"link add {port} type veth peer name eth0 address {hardware} netns {machine.pid}",
            f"link set {port} master bridge0 up",
        )
        machine.ip("link set lo up", f"addr add {machine.address}/24 dev eth0", "link set eth0 up")

    def disconnect(self, port: str) -> None:
        """Remove both ends of what ``connect`` has put between a machine and the bridge."""
        self.ip(f"link del {port}")

    def set_port(self, port: str, state: int) -> None:
        """Let a port of the bridge forward packets, or lose them all while the cable looks plugged in."""
        enter = ["nsenter", "--target", f"{self.pid}", "--net"]
        subprocess.run([*enter, "bridge", "link", "set", "dev", port, "state", f"{state}"], check=True)

    def start_postgresql(self) -> str:
        """Start PostgreSQL. Without it on this machine, the test is skipped.

        Returns:
            The URL of an empty database.
        """
        programs, data = find_programs(), self.home / "postgresql"
        (self.folder / "home/postgresql").mkdir()
        shutil.chown(self.folder / "home/postgresql", "postgres")
        user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
        options = ["-A", "trust", "-E", "UTF8", "--no-sync"]
        self.run([*user, programs / "initdb", "-D", data / "data", "-U", "looper", *options])
        with (self.folder / "home/postgresql/data/pg_hba.conf").open("a") as file:
            file.write("host all all 198.51.100.0/24 trust\n")
        options = ["-o", f"-h {self.address} -k {data} -c fsync=off -c max_connections=300"]
        self.run([*user, programs / "pg_ctl", "-D", data / "data", "-w", "-l", data / "log", *options, "start"])
        return f"postgresql://looper@{self.address}:5432/postgres"

    def start_s3(self) -> dict[str, str]:
        """Start moto's S3 server, with the bucket ``lab``.

        Returns:
            The environment with which an S3 client reaches it.
        """
        self.start([sys.executable, "-m", "moto.server", "-H", S3_ADDRESS, "-p", "9000"])
        self.wait_for_port(9000, address=S3_ADDRESS)
        url = f"http://{S3_ADDRESS}:9000"
        self.python(f"import httpx; httpx.put('{url}/{BUCKET}').raise_for_status()")
        credentials = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
        return credentials | {"AWS_ENDPOINT_URL": url}

    def start_redis(self) -> str:
        """Start Redis, for the fault tolerance of Ray's head. Without it on this machine, the test is skipped.

        Returns:
            Address and port, as for ``RAY_REDIS_ADDRESS``.
        """
        if not shutil.which("redis-server"):
            pytest.skip("Redis is not installed (Debian: apt-get install redis-server)")
        self.start(["redis-server", "--bind", self.address, "--save", "", "--protected-mode", "no"])
        self.wait_for_port(6379)
        return f"{self.address}:6379"
