"""What commands need beyond the client: the package's extras, and Linux."""

import sys
import traceback
from collections.abc import Iterable
from importlib.util import find_spec
from shutil import which

from looper.platform.domain.errors import LooperError

PACKAGE = "looper-skills"
"""The distribution's name: `looper` is another program in the package index."""

_EXTRA_OF_ROOM = {"jobs": "train", "benchmarks": "bench", "demo": "bench", "gym": "bench"}
"""Which extra brings what a room imports; for all other rooms it is serve."""
_OF_ENGINES = {"vllm", "numba", "llvmlite"}


def to_run(command: str, *extras: str) -> None:
    """Raise LooperError unless ``command``, which starts Ray, trainers or engines, can do so on this machine.

    It is seen before anything starts: what is missing in a process far away shows in a log only.
    """
    if sys.platform != "linux":
        raise LooperError(f"`{command}` needs Linux; the client and the commands that start nothing run here, too")
    brought = {"serve": "ray", "train": "deepspeed", _for_engines(): "vllm", "bench": "matplotlib"}
    wanted = ("serve", "train", _for_engines(), *extras)
    if missing := [extra for extra in wanted if find_spec(brought[extra]) is None]:
        raise LooperError(f"`{command}` needs more than the client: {_install(missing)}")


def in_words(error: ModuleNotFoundError) -> str | None:
    """Which extra brings the module that was not found; None if the module is one of our own."""
    missing = (error.name or "looper").partition(".")[0]
    if missing == "looper":
        return None
    modules = (frame.f_globals.get("__name__", "").split(".") for frame, _ in traceback.walk_tb(error.__traceback__))
    *_, room = (parts[1] for parts in modules if parts[0] == "looper" and len(parts) > 1)
    extra = _for_engines() if missing in _OF_ENGINES else _EXTRA_OF_ROOM.get(room, "serve")
    return f"{missing} is not installed: {_install([extra])}"


def _for_engines() -> str:
    return "gpu" if which("nvidia-smi") else "cpu"


def _install(extras: Iterable[str]) -> str:
    return f'pip install "{PACKAGE}[{",".join(extras)}]"'
