"""``looper up``, ``down`` and ``status``: acting on the supervisor from another process."""

import subprocess
import sys
import time
from collections.abc import Callable

import httpx
import psutil
from filelock import FileLock

from looper.cluster.state import log_file, read_state, state_file
from looper.platform.domain.errors import LooperError
from looper.platform.settings import Settings


def up(settings: Settings, *, patience_s: float = 600.0, waiting: Callable[[str], None] = lambda what: None) -> str:
    """Start the cluster unless it runs, wait until it answers, return its URL."""
    state_file(settings).parent.mkdir(parents=True, exist_ok=True)
    with FileLock(state_file(settings).with_suffix(".lock")):
        if read_state(settings) is None:
            _start(settings)
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        state = read_state(settings)
        if state is None:
            raise LooperError(f"the cluster ended while it started: read {log_file(settings)}")
        if state.starts > 2:
            down(settings)
            raise LooperError(f"the cluster failed to start {state.starts - 1} times: read {log_file(settings)}")
        if state.phase == "up" and state.url and healthy(state.url):
            return state.url
        waiting(f"{state.phase}, log in {log_file(settings)}")
        time.sleep(0.5)
    raise LooperError(f"the cluster did not answer within {patience_s:.0f} s: read {log_file(settings)}")


def down(settings: Settings) -> bool:
    """End the cluster of this home and all its processes; False if none runs."""
    state = read_state(settings)
    if state is None:
        return False
    try:
        supervisor = psutil.Process(state.pid)
        family = supervisor.children(recursive=True)
        supervisor.terminate()
    except psutil.NoSuchProcess:
        return False
    _, alive = psutil.wait_procs([supervisor, *family], timeout=60)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    state_file(settings).unlink(missing_ok=True)
    return True


def healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=5).is_success
    except httpx.TransportError:
        return False


def _start(settings: Settings) -> None:
    """The supervisor must outlive this process and its terminal, hence a session of its own."""
    supervisor = subprocess.Popen(
        [sys.executable, "-m", "looper.cluster.supervisor"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert supervisor.stdin is not None
    with supervisor.stdin as pipe:
        pipe.write(settings.model_dump_json().encode())
    while read_state(settings) is None:
        if supervisor.poll() is not None:
            raise LooperError(f"the cluster's supervisor ended at once: read {log_file(settings)}")
        time.sleep(0.05)
