"""Keeps the head process up: starts it, starts it again when it dies, ends it when told to.

Small on purpose: it imports neither Ray nor torch, so that there is little in it that can die. Run as
``python -m looper.cluster.supervisor``, the
settings as JSON on standard input.
"""

import json
import signal
import subprocess
import sys
import threading
import time
from types import FrameType

import psutil

from looper.cluster.state import ClusterState, clear_state, log_file, write_state
from looper.platform.settings import Settings, load_settings

LONGEST_PAUSE_S = 30.0
GRACE_S = 40.0


def supervise(settings: Settings, stop: threading.Event) -> None:
    """Run the head until ``stop``. A head that dies young is started again after a pause that doubles."""
    me = psutil.Process()
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
        if stop.is_set():
            _end(head)
            break
        pause = 1.0 if time.monotonic() - began > 60 else min(2 * pause, LONGEST_PAUSE_S)
        stop.wait(pause)
    clear_state(settings)


def _end(head: subprocess.Popen[bytes]) -> None:
    head.terminate()
    try:
        head.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        for process in psutil.Process(head.pid).children(recursive=True):
            process.kill()
        head.kill()
        head.wait()


def main() -> None:
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    supervise(load_settings(**json.load(sys.stdin)), stop)


if __name__ == "__main__":
    main()
