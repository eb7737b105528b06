"""Peak memory of this process and all its descendants."""

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil


class PeakMemory:
    """While entered, and once at the end, samples the memory of the process tree; ``bytes`` is the largest sum seen.

    The sum is of proportional set sizes, in which a page shared by n processes counts 1/n for each, so that Ray's
    shared object store and the libraries are counted once. Where the system has none (not Linux), resident sizes.
    Walking the pages of gigabytes costs the walked process, too: hence not more than every few seconds.
    """

    def __init__(self, every_s: float = 5.0) -> None:
        self.bytes = 0
        self._every_s = every_s
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
            ended = self._stop.wait(self._every_s)
            self.bytes = max(self.bytes, sum(_size(process) for process in [me, *me.children(recursive=True)]))


def _size(process: psutil.Process) -> int:
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
