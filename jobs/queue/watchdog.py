"""A process that kills its parent, a trainer's worker, when the parent advances nothing for too long.

It is a process, not a thread, because what hangs may keep Python from running any thread. ``training_run`` starts one
beside each worker's rank 0. Ray Train then starts the whole training run again, since the other ranks cannot go on.

    python -m looper.jobs.queue.watchdog PARENT_PID START_TIMEOUT_S TIMEOUT_S < pipe
"""

import os
import select
import signal
import subprocess
import sys
import threading
from types import TracebackType

from looper.jobs.queue.progress import ProgressCounter


class StallWatchdog:
    """Context manager that has this process killed if ``progress`` stands still for too long inside the block."""

    def __init__(self, progress: ProgressCounter, *, start_timeout_s: float, timeout_s: float) -> None:
        """Prepare a watchdog.

        Args:
            progress: The counter.
            start_timeout_s: Seconds until the first advance, for example to load a base model.
            timeout_s: Seconds from one advance to the next.
        """
        self._progress = progress
        self._timeouts_s = (start_timeout_s, timeout_s)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._forward, name="watchdog", daemon=True)

    def __enter__(self) -> "StallWatchdog":
        """Start the watchdog process."""
        command = [sys.executable, "-m", __name__, str(os.getpid()), *map(str, self._timeouts_s)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE)
        self._thread.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """End the watchdog process."""
        self._ended.set()
        self._thread.join()
        assert self._process.stdin is not None
        self._process.stdin.close()  # its end is the signal to end
        self._process.wait()

    def _forward(self) -> None:
        """Write a byte to the watchdog whenever the counter has moved."""
        assert self._process.stdin is not None
        seen = self._progress.count
        while not self._ended.wait(min(self._timeouts_s) / 10):
            if self._progress.count != seen:
                seen = self._progress.count
                try:
                    os.write(self._process.stdin.fileno(), b".")
                except BrokenPipeError:  # somebody ended the watchdog; the leases still depend on progress
                    return


def watch(parent: int, start_timeout_s: float, timeout_s: float, pipe: int) -> None:
    """Kill ``parent`` if nothing arrives for too long. Return when the pipe ends.

    Args:
        parent: Process id of the parent.
        start_timeout_s: Seconds to wait for the first byte.
        timeout_s: Seconds to wait for each further byte.
        pipe: File descriptor that the parent writes to.
    """
    limit_s = start_timeout_s
    while select.select([pipe], [], [], limit_s)[0]:
        if not os.read(pipe, 4096):
            return
        limit_s = timeout_s
    if os.getppid() == parent:
        print(f"trainer process {parent} made no progress for {limit_s:g} s: it is killed", file=sys.stderr, flush=True)
        os.kill(parent, signal.SIGKILL)


if __name__ == "__main__":
    watch(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), sys.stdin.fileno())
