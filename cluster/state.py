"""What ``looper up`` leaves in the home folder, so that the other commands find the cluster."""

import contextlib
import os
from pathlib import Path
from typing import Literal

import psutil
from pydantic import BaseModel, ConfigDict

from looper.platform.settings import Settings


class ClusterState(BaseModel):
    """One cluster of this machine. ``started`` tells its supervisor from a later process with the same id."""

    model_config = ConfigDict(frozen=True)

    pid: int
    started: float
    phase: Literal["starting", "up"]
    url: str | None = None
    starts: int = 0
    """How often the head process was started."""
    engines: dict[int, str] = {}
    """By the largest rank that it serves, what an engine holds, for people."""

    @property
    def alive(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            return process.create_time() == self.started and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def state_file(settings: Settings) -> Path:
    return settings.home / "cluster.json"


def log_file(settings: Settings) -> Path:
    return settings.home / "logs" / "head.log"


def read_state(settings: Settings) -> ClusterState | None:
    """The cluster that runs on this home, or None."""
    try:
        state = ClusterState.model_validate_json(state_file(settings).read_bytes())
    except FileNotFoundError:
        return None
    return state if state.alive else None


def write_state(settings: Settings, state: ClusterState) -> None:
    path = state_file(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(state.model_dump_json())
    partial.replace(path)


def clear_state(settings: Settings) -> None:
    with contextlib.suppress(FileNotFoundError):
        state_file(settings).unlink()
