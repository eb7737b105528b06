"""Progress of a worker, which its heartbeat looks at: a process that lives but advances nothing loses its work.

A hung collective, a deadlock or an endless loop leaves the threads of a process alive. So leases are renewed only while
a counter moves (``leases.py``), and a trainer whose counter stands still is killed (``watchdog.py``).
"""

import time
from collections.abc import Callable


class ProgressCounter:
    """Counts what a worker has advanced: passes over the base model, encoded examples, written objects, and so on.

    Attributes:
        count: The number of advances.
    """

    def __init__(self) -> None:
        """Start at 0."""
        self.count: int = 0

    def advance(self) -> None:
        """Count one piece of work. Each piece is far shorter than ``consolidation.progress_timeout_s``."""
        self.count += 1


class StallDetector:
    """Tells whether a counter has stood still for too long. Only one thread uses it."""

    def __init__(
        self, progress: ProgressCounter, timeout_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin to observe.

        Args:
            progress: The counter.
            timeout_s: Seconds without an advance after which the worker is stalled.
            clock: Returns the time in seconds.
        """
        self._progress = progress
        self._timeout_s = timeout_s
        self._clock = clock
        self._seen = progress.count
        self._advanced_at = clock()

    def is_stalled(self) -> bool:
        """Return whether the counter has stood still for ``timeout_s``."""
        if self._progress.count != self._seen:
            self._seen, self._advanced_at = self._progress.count, self._clock()
        return self._clock() - self._advanced_at >= self._timeout_s
