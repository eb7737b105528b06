"""The first process of a machine: builds the file system, then waits for the end of the process that holds the lab.

It is started in new namespaces, by path, and imports nothing of the project. When it ends, the kernel kills all other
processes of the machine, and with the last one the namespaces, their mounts and their network interfaces are gone.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


def mount(*arguments: str | Path) -> None:
    """Run the program ``mount``."""
    subprocess.run(["mount", *map(str, arguments)], check=True)


def bind(source: Path, target: Path, read_only: bool = False) -> None:
    """Show the file or folder ``source`` at ``target``, without what is mounted below it."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    elif not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    mount("--bind", source, target)
    if read_only:
        mount("-o", "remount,ro,bind", target)


def build_root(spec: dict[str, Any]) -> None:
    """Make a new root of what ``spec`` names, and let go of the old one."""
    root = Path(spec["root"])
    mount("--make-rprivate", "/")
    mount("-t", "tmpfs", "-o", "mode=755,size=64m", "tmpfs", root)
    for name in ("bin", "sbin", "lib", "lib64"):
        if Path("/", name).is_symlink():
            (root / name).symlink_to(Path("/", name).readlink())
        elif Path("/", name).is_dir():
            bind(Path("/", name), root / name, read_only=True)
    for path, source in spec["writable"].items():
        bind(Path(source), root / path.lstrip("/"))
    for path in spec["read_only"]:  # last, because a checkout may be below /tmp
        bind(Path(path), root / path.lstrip("/"), read_only=True)
    for path, source in spec["files"].items():
        bind(Path(source), root / path.lstrip("/"))
    for folder in ("dev/pts", "dev/shm", "proc", "sys", "run", "var/tmp", "old"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for device in DEVICES:
        bind(Path("/dev", device), root / "dev" / device)
    for link, target in {"fd": "fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}.items():
        (root / "dev" / link).symlink_to(Path("/proc/self", target))
    (root / "dev/ptmx").symlink_to("pts/ptmx")
    mount("-t", "devpts", "-o", "newinstance,ptmxmode=0666,mode=620", "devpts", root / "dev/pts")
    mount("-t", "tmpfs", "-o", "mode=1777,size=2g", "tmpfs", root / "dev/shm")
    mount("-t", "proc", "proc", root / "proc")
    mount("-t", "sysfs", "-o", "ro", "sysfs", root / "sys")  # Ray and vLLM read the cores there
    os.chdir(root)
    subprocess.run(["pivot_root", ".", "old"], check=True)
    os.chdir("/")
    subprocess.run(["umount", "--lazy", "/old"], check=True)
    Path("/old").rmdir()


def reap(_signal: int, _frame: FrameType | None) -> None:
    """Collect ended processes whose own parent is gone: as long as nobody does, they look alive."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def main() -> None:
    """Take a JSON object and the file descriptor of the lab's process, a pidfd, which is readable when that ends."""
    spec, holder = json.loads(sys.argv[1]), int(sys.argv[2])
    socket.sethostname(spec["name"])
    build_root(spec)
    signal.signal(signal.SIGCHLD, reap)
    print("ready", flush=True)
    poll = select.poll()
    poll.register(holder, select.POLLIN)
    poll.poll()


if __name__ == "__main__":
    main()
