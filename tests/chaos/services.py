"""PostgreSQL, an S3 server, and a proxy in front of each that can break connections."""

import asyncio
import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Literal

import httpx
import psutil
from tenacity import retry, stop_after_delay, wait_fixed

NetworkState = Literal["open", "stalled", "closed"]


def free_port() -> int:
    """Return a TCP port that is free now, and that Linux does not give to connections meanwhile (32768 to 60999)."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            port = secrets.randbelow(10_000) + 21_000  # Ray's own are below
            probe.bind(("127.0.0.1", port))
            return port


class TcpProxy:
    """Forwards connections to a port of this machine, in a thread of its own."""

    def __init__(self, target_port: int) -> None:
        """Start the thread and listen."""
        self.port = free_port()
        self._target_port = target_port
        self._state: NetworkState = "open"
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._opened = asyncio.Event()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._opened.set()
        asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._forward, "127.0.0.1", self.port), self._loop
        ).result()

    def set_state(self, state: NetworkState) -> None:
        """Forward bytes, hold them back, or reset all connections and each new one."""
        asyncio.run_coroutine_threadsafe(self._set_state(state), self._loop).result()

    async def _set_state(self, state: NetworkState) -> None:
        self._state = state
        if state == "open":
            self._opened.set()
        else:
            self._opened.clear()
        if state == "closed":
            for writer in self._writers:
                writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._state == "closed":
            writer.transport.abort()
            return
        try:
            target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, target_writer}
        self._writers |= both
        try:
            await asyncio.gather(self._copy(reader, target_writer), self._copy(target_reader, writer))
        finally:
            self._writers -= both
            for each in both:
                each.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65536):
                await self._opened.wait()
                writer.write(chunk)
                await writer.drain()
            writer.write_eof()


class Postgres:
    """A PostgreSQL server of its own in ``folder``, behind a proxy."""

    def __init__(self, folder: Path) -> None:
        """Create the database and start the server."""
        programs = shutil.which("initdb")
        found = [Path(programs)] if programs else sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        assert found, "PostgreSQL is not installed (Debian: apt-get install postgresql)"
        self._programs, self._folder = found[-1].parent, folder
        self._port = free_port()
        # PostgreSQL refuses to run as root.
        self._user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        folder.mkdir()
        shutil.chown(folder, self._user)
        self._run("initdb", "-D", f"{folder}/data", "-U", "looper", "-A", "trust", "-E", "UTF8", "--no-sync")
        self.start()
        self.proxy = TcpProxy(self._port)
        self.url = f"postgresql://looper@127.0.0.1:{self.proxy.port}/postgres"
        self.direct_url = f"postgresql://looper@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        """Start the server, also after ``kill``."""
        options = f"-p {self._port} -h 127.0.0.1 -k {self._folder} -c max_connections=200"
        log = f"{self._folder}/log"
        self._run("pg_ctl", "-D", f"{self._folder}/data", "-w", "-l", log, "-o", options, "start")

    def kill(self) -> None:
        """Kill all processes of the server, as a crash of its machine does."""
        processes = self._processes()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=10)
        # A server that was killed leaves it, and a new one must not take a stranger's process id for it.
        Path(self._folder, "data", "postmaster.pid").unlink(missing_ok=True)

    def freeze(self, frozen: bool) -> None:
        """Stop all processes of the server without ending them, or let them go on."""
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    def stop(self) -> None:
        """End the server."""
        self.freeze(False)
        self._run("pg_ctl", "-D", f"{self._folder}/data", "-m", "immediate", "stop")

    def _processes(self) -> list[psutil.Process]:
        main = psutil.Process(int(Path(self._folder, "data", "postmaster.pid").read_text().split()[0]))
        return [main, *main.children(recursive=True)]

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._programs / program), *arguments],
            user=self._user,
            cwd=self._folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )


class S3Server:
    """moto's S3 server in a process of its own, behind a proxy. It keeps objects in memory, so it is never killed."""

    BUCKET = "chaos"

    def __init__(self, log: Path) -> None:
        """Start the server and create the bucket."""
        port = free_port()
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        with log.open("wb") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output)
        self.proxy = TcpProxy(port)
        self.url, self.environment = f"http://127.0.0.1:{self.proxy.port}", self._credentials()
        self._create_bucket(f"http://127.0.0.1:{port}/{self.BUCKET}")

    @staticmethod
    def _credentials() -> dict[str, str]:
        return {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}

    @retry(wait=wait_fixed(0.2), stop=stop_after_delay(60), reraise=True)
    def _create_bucket(self, url: str) -> None:
        httpx.put(url, timeout=5).raise_for_status()

    def freeze(self, frozen: bool) -> None:
        """Stop the server without ending it, or let it go on."""
        self._process.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    def stop(self) -> None:
        """End the server."""
        self._process.kill()
        self._process.wait()
