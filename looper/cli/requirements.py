"""Checks what commands need beyond the client: the package's extras, and Linux.

Commands that start Ray, trainers or engines call ``check_machine`` first; ``looper.cli.main`` describes any other
missing module.
"""

import sys
import traceback
from collections.abc import Iterable
from importlib.util import find_spec
from shutil import which

from looper.platform.domain.errors import LooperError

PACKAGE = "looper-skills"
"""Name of the distribution: on the package index, `looper` is another program."""

_EXTRA_BY_PACKAGE = {"basemodel": "train", "jobs": "train", "benchmarks": "bench", "demo": "bench", "gym": "bench"}
"""Extra that installs what a package of Looper imports; for all other packages it is serve."""
_ENGINE_MODULES = {"vllm", "numba", "llvmlite"}


def check_machine(command: str, *extras: str) -> None:
    """Check that a command which starts Ray, trainers or engines can run on this machine.

    The check comes before anything starts: a module that a worker process misses would appear in a log only.

    Args:
        command: The command, for the message.
        *extras: Extras that it needs in addition to serve, train and the engine's.

    Raises:
        LooperError: The machine does not run Linux, or an extra is not installed.
    """
    if sys.platform != "linux":
        raise LooperError(f"`{command}` needs Linux; the client and the commands that start nothing run here, too")
    module_of = {"serve": "ray", "train": "deepspeed", _engine_extra(): "vllm", "bench": "matplotlib"}
    needed = ("serve", "train", _engine_extra(), *extras)
    if missing := [extra for extra in needed if find_spec(module_of[extra]) is None]:
        raise LooperError(f"`{command}` needs more than the client: {_install_command(missing)}")


def describe_missing_module(error: ModuleNotFoundError) -> str | None:
    """Return which extra installs a module that was not found.

    Args:
        error: The error of the import.

    Returns:
        One line with the command to install it. None if the module is Looper's own, because that is a bug.
    """
    missing = (error.name or "looper").partition(".")[0]
    if missing == "looper":
        return None
    modules = (frame.f_globals.get("__name__", "").split(".") for frame, _ in traceback.walk_tb(error.__traceback__))
    *_, package = (parts[1] for parts in modules if parts[0] == "looper" and len(parts) > 1)
    extra = _engine_extra() if missing in _ENGINE_MODULES else _EXTRA_BY_PACKAGE.get(package, "serve")
    return f"{missing} is not installed: {_install_command([extra])}"


def _engine_extra() -> str:
    return "gpu" if which("nvidia-smi") else "cpu"


def _install_command(extras: Iterable[str]) -> str:
    return f'pip install "{PACKAGE}[{",".join(extras)}]"'
