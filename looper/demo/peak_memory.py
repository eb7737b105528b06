"""Measure the peak memory of this process and all its descendants, for the demo and the benchmarks."""

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil


class PeakMemory:
    """Context manager that samples the memory of the process tree, and once more at the end.

    The sum is one of proportional set sizes, in which a page that n processes share counts 1/n for each of them, so
    that Ray's shared object store and the libraries are counted once. Systems other than Linux have no proportional
    set size; there it is a sum of resident set sizes. To walk the pages of gigabytes also slows down the measured
    process, so samples are a few seconds apart.

    Attributes:
        peak_bytes: The largest sum that any sample found.
    """

    def __init__(self, interval_s: float = 5.0) -> None:
        """Prepare the measurement; it starts when the context is entered.

        Args:
            interval_s: Seconds between two samples.
        """
        self.peak_bytes = 0
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        me = psutil.Process()
        ended = False
        while not ended:
            ended = self._stop.wait(self._interval_s)
            self.peak_bytes = max(
                self.peak_bytes, sum(_memory_bytes(process) for process in [me, *me.children(recursive=True)])
            )


def _memory_bytes(process: psutil.Process) -> int:
    try:
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
