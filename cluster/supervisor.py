"""Keeps the head process up: starts it, starts it again when it dies, ends it when told to.

Small on purpose: it imports neither Ray nor torch, so that there is little in it that can die. Run as
``python -m looper.cluster.supervisor``, the
settings as JSON on standard input.
"""

import contextlib
import ctypes
import signal
import subprocess
import sys
import threading
import time
from types import FrameType

import psutil

from looper.cluster.state import ClusterState, clear_state, log_file, write_state
from looper.platform.settings import Settings

LONGEST_PAUSE_S = 30.0
GRACE_S = 40.0


def supervise(settings: Settings, stop: threading.Event) -> None:
    """Run the head until ``stop``. A head that dies young is started again after a pause that doubles."""
    me = psutil.Process()
    _adopt_orphans()
    pause, starts = 1.0, 0
    log_file(settings).parent.mkdir(parents=True, exist_ok=True)
    while not stop.is_set():
        starts += 1
        write_state(settings, ClusterState(pid=me.pid, started=me.create_time(), phase="starting", starts=starts))
        began = time.monotonic()
        with log_file(settings).open("ab") as log:
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
                head.wait(GRACE_S)
        _end_descendants(me)
        if not stop.is_set():
            pause = 1.0 if time.monotonic() - began > 60 else min(2 * pause, LONGEST_PAUSE_S)
            stop.wait(pause)
    clear_state(settings)


def _adopt_orphans() -> None:
    """What a killed head leaves behind becomes ours, so that it can be found and ended. Linux only."""
    if sys.platform == "linux":
        set_child_subreaper = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)
        ctypes.CDLL(None, use_errno=True).prctl(set_child_subreaper, 1, 0, 0, 0)


def _end_descendants(me: psutil.Process) -> None:
    """Ray's own processes end with their head, but for some that it forgets when it was killed."""
    _, alive = psutil.wait_procs(me.children(recursive=True), timeout=5)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=5)


def main() -> None:
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    supervise(Settings.model_validate_json(sys.stdin.read()), stop)


if __name__ == "__main__":
    main()
