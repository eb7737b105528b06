"""The state file of a cluster, in the home folder. Supervisor and head write it; commands find the cluster by it."""

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from looper.platform.settings import Settings


class ClusterState(BaseModel):
    """One cluster of this machine."""

    model_config = ConfigDict(frozen=True)

    pid: int
    """Process id of the supervisor."""
    started: int
    """When the supervisor started, by ``process_start``. It tells the supervisor from a later process with its id."""
    phase: Literal["starting", "up"]
    """Whether the cluster has answered since the head's latest start."""
    url: str | None = None
    """URL of the HTTP API, None before the first start has finished."""
    starts: int = 0
    """How often the head process was started."""
    refusal: str = ""
    """Why the cluster cannot start with these settings, if the head has found that out."""
    gpus: str = ""
    """How GPUs are divided, in words."""
    engines: dict[str, str] = {}
    """Capacity of an engine in words, by its pool in words."""

    @property
    def is_alive(self) -> bool:
        """Whether the supervisor is running."""
        return process_start(self.pid) == self.started


def process_start(pid: int) -> int | None:
    """Return when a process started, None if it has ended.

    psutil tells it in seconds since 1970, which change by one whenever the machine's clock is corrected: a cluster that
    runs would be taken for one that has ended.

    Args:
        pid: Id of the process.

    Returns:
        Clock ticks since the machine was started, field ``starttime`` of proc(5). Linux only.
    """
    try:
        # The second field is the name, in parentheses, and may contain spaces.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else int(fields[18])


def state_path(settings: Settings) -> Path:
    """Return the path of the state file.

    Args:
        settings: Settings with the home folder.
    """
    return settings.home / "cluster.json"


def log_path(settings: Settings) -> Path:
    """Return the path of the head's log.

    Args:
        settings: Settings with the home folder.
    """
    return settings.home / "logs" / "head.log"


def read_state(settings: Settings) -> ClusterState | None:
    """Return the state of the cluster that runs on a home, None if none runs.

    Args:
        settings: Settings with the home folder.
    """
    try:
        state = ClusterState.model_validate_json(state_path(settings).read_bytes())
    except FileNotFoundError:
        return None
    return state if state.is_alive else None


def write_state(settings: Settings, state: ClusterState) -> None:
    """Write the state file. A reader sees the old or the new state, never a part.

    Args:
        settings: Settings with the home folder.
        state: The new state.
    """
    path = state_path(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(state.model_dump_json())
    partial.replace(path)


def clear_state(settings: Settings) -> None:
    """Delete the state file, if there is one.

    Args:
        settings: Settings with the home folder.
    """
    state_path(settings).unlink(missing_ok=True)
