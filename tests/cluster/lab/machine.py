"""A machine of the lab: new namespaces, the commands that run in them, and what can happen to it."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

CHECKOUT = Path(__file__).resolve().parents[3]
INIT = Path(__file__).with_name("machine_init.py")
NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid")
WAIT = """
import socket, sys, time
while socket.socket().connect_ex((sys.argv[1], int(sys.argv[2]))):
    time.sleep(0.05)
"""


def read_only_paths() -> list[str]:
    """Return what all machines have in common: the system's programs, Python, its packages and the project."""
    wanted = [Path("/usr"), Path("/etc"), Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), CHECKOUT]
    return [str(path) for path in wanted if not any(other != path and other in path.parents for other in wanted)]


class Command:
    """A command that runs in a machine. Its output is in the files ``out`` and ``err``."""

    def __init__(self, process: subprocess.Popen[bytes], name: str, out: Path, err: Path) -> None:
        self._process, self.name, self.out, self.err = process, name, out, err

    def wait(self, timeout: float = 60) -> int:
        """Wait until the command ends, and return its exit status: that of a signal is negative."""
        return self._process.wait(timeout)

    def poll(self) -> int | None:
        """Return the exit status, or None while the command runs."""
        return self._process.poll()

    def resume(self) -> None:
        """Let nsenter go on: it stops itself when its command is stopped, and stays so."""
        if self.poll() is None:
            self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill the command, and not what it has put into the background."""
        self._process.kill()  # nsenter; the kernel tells the command in the machine (see setpriv below)
        self._process.wait()

    def read(self) -> str:
        """Return both outputs so far."""
        return self.out.read_text(errors="replace") + self.err.read_text(errors="replace")


class Machine:
    """A machine of its own, with the folder ``/home/NAME``, which is there again after a restart."""

    def __init__(self, name: str, address: str, folder: Path, hosts: Mapping[str, str]) -> None:
        """Start the machine. Its files and the logs of its commands are in ``folder``, outside the machine.

        Args:
            name: The host name.
            address: The IPv4 address, which the lab assigns.
            folder: A new folder.
            hosts: The addresses of all machines by name, for ``/etc/hosts``.
        """
        self.name, self.address, self.folder = name, address, folder
        self.home = Path("/home") / name
        self.environment = {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(CHECKOUT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        self._commands: list[Command] = []
        for part in ("root", "home", "tmp", "log", "etc"):
            (folder / part).mkdir(parents=True)
        (folder / "tmp").chmod(0o1777)
        lines = ["127.0.0.1 localhost", *(f"{host_address} {host}" for host, host_address in hosts.items())]
        (folder / "etc/hosts").write_text("\n".join(lines) + "\n")
        (folder / "etc/resolv.conf").write_text("")
        accounts = [line for line in Path("/etc/passwd").read_text().splitlines() if not line.startswith("root:")]
        accounts.append(f"root:x:0:0:root:{self.home}:/bin/bash")
        (folder / "etc/passwd").write_text("\n".join(accounts) + "\n")
        self._boot()

    def _boot(self) -> None:
        own = [file for file in (self.folder / "etc").iterdir() if Path("/etc", file.name).exists()]
        spec = {
            "name": self.name,
            "root": str(self.folder / "root"),
            "read_only": read_only_paths(),
            "files": {f"/etc/{file.name}": str(file) for file in own},
            "writable": {str(self.home): str(self.folder / "home"), "/tmp": str(self.folder / "tmp")},
        }
        unshare = ["unshare", *NAMESPACES, "--fork", "--kill-child", "--mount-proc", "--"]
        holder = os.pidfd_open(os.getpid())
        with (self.folder / "log/init.log").open("ab") as log:
            self._unshare = subprocess.Popen(
                [*unshare, sys.executable, "-I", str(INIT), json.dumps(spec), str(holder)],
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=[holder],
                cwd="/",
                env={"PATH": self.environment["PATH"]},
                start_new_session=True,  # an interrupt from the keyboard is for the test, which then ends the lab
            )
        os.close(holder)
        assert self._unshare.stdout is not None
        if self._unshare.stdout.readline() != b"ready\n":
            raise RuntimeError(f"{self.name} did not start: {(self.folder / 'log/init.log').read_text().strip()}")
        self._unshare.stdout.close()
        self.pid = psutil.Process(self._unshare.pid).children()[0].pid
        """The process id, outside the machine, of its first process."""
        self._namespace = _read_pid_namespace(self.pid)

    def start(self, command: Sequence[str | Path], *, environment: Mapping[str, str] | None = None) -> Command:
        """Start a command in the machine's home folder.

        Args:
            command: The program and its arguments.
            environment: Variables beside those of the machine.

        Returns:
            The running command. It ends with the machine.
        """
        name = f"{len(self._commands):03d}-{Path(command[0]).name}"
        out, err = (self.folder / "log" / f"{name}.{kind}" for kind in ("out", "err"))
        variables = self.environment | dict(environment or {})
        entered = ["nsenter", "--target", f"{self.pid}", *NAMESPACES, "--", "setpriv", "--pdeathsig", "KILL"]
        entered += ["env", "-i", "-C", f"{self.home}", *(f"{key}={value}" for key, value in variables.items())]
        with out.open("wb") as out_file, err.open("wb") as err_file:
            process = subprocess.Popen(
                [*entered, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=out_file,
                stderr=err_file,
                cwd="/",
                start_new_session=True,
            )
        command_started = Command(process, name, out, err)
        self._commands.append(command_started)
        return command_started

    def run(
        self,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str] | None = None,
        timeout: float = 60,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command and wait for it.

        Args:
            command: The program and its arguments.
            environment: Variables beside those of the machine.
            timeout: Seconds after which the command is killed.
            check: Whether another exit status than 0 is an error.

        Returns:
            The exit status and both outputs. What it leaves in the background goes on.

        Raises:
            AssertionError: The command failed, or took too long. The message has the end of its output.
        """
        started = self.start(command, environment=environment)
        try:
            status = started.wait(timeout)
        except subprocess.TimeoutExpired:
            started.kill()
            raise AssertionError(f"{self.name}: {command} took over {timeout} s: {started.read()[-3000:]}") from None
        assert not check or status == 0, f"{self.name}: {command} ended with {status}: {started.read()[-3000:]}"
        out, err = started.out.read_text(errors="replace"), started.err.read_text(errors="replace")
        return subprocess.CompletedProcess(list(map(str, command)), status, out, err)

    def python(self, code: str, **settings: object) -> str:
        """Run Python code in the machine, with the arguments of ``run``, and return what it prints."""
        return self.run([sys.executable, "-c", code], **settings).stdout.strip()  # type: ignore[arg-type]

    def put(self, source: Path, name: str) -> Path:
        """Copy a file or folder into the machine's home as ``name``, and return its path there."""
        target = self.folder / "home" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy2(source, target)
        return self.home / name

    def wait_for_port(self, port: int, timeout: float = 60, address: str | None = None) -> None:
        """Wait until something in the machine listens on a port of an address. Default: the machine's address.

        Raises:
            AssertionError: Nothing does after ``timeout`` seconds.
        """
        self.run([sys.executable, "-S", "-c", WAIT, address or self.address, f"{port}"], timeout=timeout)

    def ip(self, *commands: str) -> None:
        """Run commands of the program ``ip`` on the machine's network interfaces, from outside the machine.

        Raises:
            subprocess.CalledProcessError: A command failed.
        """
        enter = ["nsenter", "--target", f"{self.pid}", "--net", "ip", "-batch", "-"]
        subprocess.run(enter, input="\n".join(commands), text=True, check=True)

    def processes(self) -> list[psutil.Process]:
        """Return all processes of the machine but its first."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError):
                if process.pid != self.pid and _read_pid_namespace(process.pid) == self._namespace:
                    found.append(process)
        return found

    def is_running(self) -> bool:
        """Whether the machine runs, frozen or not."""
        return self._unshare.poll() is None

    def kill(self) -> None:
        """Kill all processes at once. The files stay, and nothing else."""
        if self.is_running():
            os.kill(self.pid, signal.SIGKILL)
            self._unshare.wait()

    def freeze(self) -> None:
        """Stop all processes without ending them. Connections stay open, and the kernel goes on to accept new ones."""
        while running := [each for each in self.processes() if not _is_stopped(each)]:
            for process in running:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGSTOP)
            time.sleep(0.01)

    def thaw(self) -> None:
        """Let stopped processes go on."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)
        for command in self._commands:
            command.resume()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze the machine while the context is open."""
        self.freeze()
        try:
            yield
        finally:
            self.thaw()


def _read_pid_namespace(pid: int) -> str:
    return str(Path(f"/proc/{pid}/ns/pid").readlink())


def _is_stopped(process: psutil.Process) -> bool:
    try:
        return process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return True
