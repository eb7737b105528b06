"""Keeps the head process running: starts it, restarts it when it dies, and ends it on a signal.

``looper up`` runs it as ``python -m looper.cluster.supervisor``, with the settings as JSON on standard input. It is
small on purpose and imports neither Ray nor torch, so that there is little in it that can fail.
"""

import contextlib
import ctypes
import subprocess
import sys
import threading
import time

import psutil

from looper.cluster.processes import kill_remaining, stop_on_signals
from looper.cluster.state import ClusterState, clear_state, log_path, process_start, write_state
from looper.platform.domain.private_files import keep_files_private
from looper.platform.settings import Settings

MAX_RESTART_DELAY_S = 30.0
"""Maximum pause before the head is restarted, in seconds."""

STABLE_S = 60.0
"""A head that ran for this long, in seconds, is restarted without a longer pause."""

SHUTDOWN_TIMEOUT_S = 40.0
"""How long the head may take to end after a signal, in seconds."""


def supervise(settings: Settings, stop: threading.Event) -> None:
    """Keep the head running. The pause before a restart doubles each time the head dies soon after its start.

    Args:
        settings: Settings of the cluster.
        stop: Ends the head, and then this function, when it is set.
    """
    me = psutil.Process()
    started = process_start(me.pid)
    assert started is not None, "this process runs"
    _adopt_orphans()
    delay_s, starts = 1.0, 0
    log_path(settings).parent.mkdir(parents=True, exist_ok=True)
    while not stop.is_set():
        starts += 1
        write_state(settings, ClusterState(pid=me.pid, started=started, phase="starting", starts=starts))
        began = time.monotonic()
        with log_path(settings).open("ab") as log:
            head = subprocess.Popen(
                [sys.executable, "-m", "looper.cluster.head"],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.PIPE,
            )
            assert head.stdin is not None
            with head.stdin as pipe:
                pipe.write(settings.model_dump_json().encode())
        while head.poll() is None and not stop.wait(0.2):
            pass
        if head.poll() is None:
            head.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                head.wait(SHUTDOWN_TIMEOUT_S)
        # Ray's processes end with their head, except for some that stay when it was killed.
        kill_remaining(me.children(recursive=True), timeout_s=5)
        if not stop.is_set():
            delay_s = 1.0 if time.monotonic() - began > STABLE_S else min(2 * delay_s, MAX_RESTART_DELAY_S)
            stop.wait(delay_s)
    clear_state(settings)


def _adopt_orphans() -> None:
    """Make the processes of a killed head children of this process, so that it can end them. Linux only."""
    if sys.platform == "linux":
        set_child_subreaper = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)
        ctypes.CDLL(None, use_errno=True).prctl(set_child_subreaper, 1, 0, 0, 0)


def main() -> None:
    """Supervise until a signal arrives."""
    keep_files_private()
    stop = threading.Event()
    stop_on_signals(stop)
    supervise(Settings.model_validate_json(sys.stdin.read()), stop)


if __name__ == "__main__":
    main()
