"""Ends child processes, and turns signals into an event. Used by the supervisor, the head, and ``looper down``.

Imports neither Ray nor torch, because the supervisor must stay small.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Collection
from types import FrameType

import psutil

ZOMBIE_CHECK_INTERVAL_S = 0.2
"""Time between two looks for processes that have ended and whose parent has not been told, in seconds."""


def kill_remaining(processes: Collection[psutil.Process], timeout_s: float) -> None:
    """Wait until processes have ended, and kill those that have not.

    Args:
        processes: Processes that have been told to end, or whose parent has ended.
        timeout_s: How long to wait before killing, in seconds.
    """
    for process in _wait(processes, timeout_s):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _wait(processes, timeout_s=5)


def _wait(processes: Collection[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Return those that have not ended in time. One that has ended may stay a zombie: not every init collects them."""
    deadline, alive = time.monotonic() + timeout_s, list(processes)
    while alive and (left := deadline - time.monotonic()) > 0:
        _, alive = psutil.wait_procs(alive, timeout=min(left, ZOMBIE_CHECK_INTERVAL_S))
        alive = [process for process in alive if not _is_zombie(process)]
    return alive


def _is_zombie(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    return True


def stop_on_signals(stop: threading.Event) -> None:
    """Make SIGTERM and SIGINT set an event instead of ending the process.

    Args:
        stop: The event.
    """

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
