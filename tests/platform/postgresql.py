"""A real PostgreSQL server for tests, which can be stopped, killed, copied and started again."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest


def free_port() -> int:
    """Return a TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def find_programs() -> Path:
    """Return the folder of PostgreSQL's programs. Without one, the test is skipped."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not versions:
        pytest.skip("PostgreSQL is not installed: the catalog is not tested on it (Debian: apt-get install postgresql)")
    return versions[-1].parent


class PostgresqlServer:
    """A server on a port of its own. Its data are in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._programs = find_programs()
        # PostgreSQL refuses to run as root, but containers and CI often are root. Then it runs as the user postgres.
        self._user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        self._folder = folder
        self.data = folder / "data"
        self.port = free_port()
        self.url = f"postgresql://looper@127.0.0.1:{self.port}/postgres"
        shutil.chown(folder, self._user)
        self._run("initdb", "-D", f"{self.data}", "-U", "looper", "-A", "trust", "-E", "UTF8", "--no-sync")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        subprocess.run(command, user=self._user, cwd=self._folder, check=True, stdout=subprocess.DEVNULL)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = f"-p {self.port} -h 127.0.0.1 -k {self._folder} -c fsync=off"
        self._run("pg_ctl", "-D", f"{self.data}", "-w", "-l", f"{self._folder}/log", "-o", options, "start")

    def create_database(self) -> str:
        """Create an empty database and return its URL."""
        import psycopg

        name = f"looper_{os.urandom(6).hex()}"
        with psycopg.connect(self.url, autocommit=True) as sql:
            sql.execute(f"CREATE DATABASE {name}".encode())
        return self.url.rpartition("/")[0] + f"/{name}"

    def stop(self, mode: str = "immediate") -> None:
        """Stop the server, which must run. ``immediate`` does it as a power cut would, ``fast`` writes all data."""
        self._run("pg_ctl", "-D", f"{self.data}", "-m", mode, "stop")

    def copy_data(self, copy: Path) -> None:
        """Copy the data of the stopped server to the folder ``copy``, as a backup."""
        shutil.copytree(self.data, copy)

    def restore_data(self, copy: Path) -> None:
        """Put a copy in place of the data of the stopped server, as a replica takes the place of its primary."""
        shutil.rmtree(self.data)
        shutil.copytree(copy, self.data)
        for path in (self.data, *self.data.rglob("*")):
            shutil.chown(path, self._user)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to all processes of the server: with SIGSTOP it hangs, though its kernel goes on."""
        postmaster = psutil.Process(int((self.data / "postmaster.pid").read_text().splitlines()[0]))
        for process in (postmaster, *postmaster.children(recursive=True)):
            process.send_signal(number)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Let the server hang while the context is open."""
        self.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.send_signal(signal.SIGCONT)


@contextmanager
def run_postgresql() -> Iterator[PostgresqlServer]:
    """Start an empty server, and stop it when the context is closed."""
    with TemporaryDirectory(prefix="looper-pg-") as folder:
        server = PostgresqlServer(Path(folder))
        server.start()
        try:
            yield server
        finally:
            if (server.data / "postmaster.pid").exists():
                server.stop()
