"""Starts and stops the cluster of this machine from another process: ``looper up``, ``down`` and ``status``.

Starts the supervisor (``cluster/supervisor.py``) and talks to it by signals and by the state file.
"""

import subprocess
import sys
import time
from collections.abc import Callable

import httpx
import psutil
from filelock import FileLock

from looper.cluster.processes import kill_remaining
from looper.cluster.state import clear_state, log_path, read_state, state_path
from looper.platform.domain.errors import InvalidInput, LooperError
from looper.platform.settings import Settings
from looper.serve.deployment.tls import trust_own_certificate
from looper.serve.engine.engine_arguments import check_all_engine_options

MAX_FAILED_STARTS = 2
"""How often the head may die before the first start is given up."""


def start_cluster(
    settings: Settings, *, timeout_s: float = 600.0, on_progress: Callable[[str], None] = lambda status: None
) -> str:
    """Start the cluster unless it runs already, and wait until it answers.

    Args:
        settings: Settings of the cluster.
        timeout_s: How long to wait, in seconds. The first start prepares the base model, which takes long.
        on_progress: Called about twice a second with a status in words.

    Returns:
        URL of the HTTP API.

    Raises:
        InvalidInput: The settings are refused: an argument in ``serve.engine``, a base model that cannot be taught, or
            GPUs that the cluster does not have.
        LooperError: The cluster ended, failed repeatedly, or did not answer in time.
    """
    check_all_engine_options(settings)
    state_path(settings).parent.mkdir(parents=True, exist_ok=True)
    with FileLock(state_path(settings).with_suffix(".lock"), mode=0o600):
        if read_state(settings) is None:
            _start_supervisor(settings)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        state = read_state(settings)
        if state is None:
            raise LooperError(f"the cluster ended while it started: read {log_path(settings)}")
        if state.refusal:
            stop_cluster(settings)
            raise InvalidInput(state.refusal)
        if state.starts > MAX_FAILED_STARTS:
            stop_cluster(settings)
            raise LooperError(f"the cluster failed to start {state.starts - 1} times: read {log_path(settings)}")
        if state.phase == "up" and state.url and is_healthy(state.url, settings):
            return state.url
        on_progress(f"{state.phase}, log in {log_path(settings)}")
        time.sleep(0.5)
    raise LooperError(f"the cluster did not answer within {timeout_s:.0f} s: read {log_path(settings)}")


def stop_cluster(settings: Settings) -> bool:
    """Stop the cluster of this home and all its processes.

    Args:
        settings: Settings; only ``home`` is used.

    Returns:
        Whether a cluster was running.
    """
    state = read_state(settings)
    if state is None:
        return False
    try:
        supervisor = psutil.Process(state.pid)
        descendants = supervisor.children(recursive=True)
        supervisor.terminate()
    except psutil.NoSuchProcess:
        return False
    kill_remaining([supervisor, *descendants], timeout_s=60)
    clear_state(settings)
    return True


def is_healthy(url: str, settings: Settings) -> bool:
    """Return whether a gateway answers its health check.

    Args:
        url: URL of the HTTP API.
        settings: Settings of the cluster, with its certificate if it has one.
    """
    try:
        verify = trust_own_certificate(settings.serve)
        return httpx.get(f"{url}/healthz", timeout=5, verify=verify).is_success
    except (httpx.TransportError, OSError):
        return False


def _start_supervisor(settings: Settings) -> None:
    """Start the supervisor in a session of its own, so that it outlives this process and its terminal."""
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
            raise LooperError(f"the cluster's supervisor ended right after its start: read {log_path(settings)}")
        time.sleep(0.05)
