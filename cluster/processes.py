"""Ends child processes, and turns signals into an event. Used by the supervisor, the head, and ``looper down``.

Imports neither Ray nor torch, because the supervisor must stay small.
"""

import contextlib
import signal
import threading
from collections.abc import Collection
from types import FrameType

import psutil


def kill_remaining(processes: Collection[psutil.Process], timeout_s: float) -> None:
    """Wait until processes have ended, and kill those that have not.

    Args:
        processes: Processes that have been told to end, or whose parent has ended.
        timeout_s: How long to wait before killing, in seconds.
    """
    _, alive = psutil.wait_procs(processes, timeout=timeout_s)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=5)


def stop_on_signals(stop: threading.Event) -> None:
    """Make SIGTERM and SIGINT set an event instead of ending the process.

    Args:
        stop: The event.
    """

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
