"""Keep leases on consolidations alive while a process works on them. Trainers and the queue worker use it.

Leases are released when the work ends. If the process dies, or lives but advances nothing, they expire.
"""

import logging
import threading
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from types import TracebackType

from looper.jobs.queue.progress import ProgressCounter, StallDetector
from looper.platform.catalog import Catalog
from looper.platform.domain.errors import StoreUnavailable

log = logging.getLogger(__name__)


class LeaseHolder:
    """Context manager that renews leases in a thread, and releases those that are still held at the end.

    They are renewed while the work makes progress. The thread lives on when the work hangs, so that it lives says
    nothing.

    If the block ends with an exception, the release counts as a crash in the number of attempts of those who may have
    caused it, unless the exception says that the object store or the catalog is down.
    """

    def __init__(
        self,
        catalog: Catalog,
        owner: str,
        lease_s: float,
        ids: Iterable[str] = (),
        *,
        progress: ProgressCounter,
        progress_timeout_s: float,
        find_suspects: Callable[[Iterable[str]], Collection[str]] = list,
    ) -> None:
        """Prepare to renew leases.

        Args:
            catalog: The catalog.
            owner: Holder of the leases.
            lease_s: Duration of a lease in seconds. Leases are renewed three times as often.
            ids: Ids of the consolidations that ``owner`` has leased.
            progress: Counts what the work advances.
            progress_timeout_s: Seconds without an advance after which leases are no longer renewed.
            find_suspects: Says which of the given ids may have caused an exception that ends the block.
        """
        self._catalog = catalog
        self._owner = owner
        self._lease_s = lease_s
        self._ids = set(ids)
        self._lock = threading.Lock()
        self._progress = progress
        self._progress_timeout_s = progress_timeout_s
        self._find_suspects = find_suspects
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._send_heartbeats, name="heartbeat", daemon=True)

    def add(self, id: str) -> None:
        """Renew the lease of the consolidation ``id``, too."""
        with self._lock:
            self._ids.add(id)

    def remove(self, id: str) -> None:
        """Renew the lease of the consolidation ``id`` no longer."""
        with self._lock:
            self._ids.discard(id)

    def __enter__(self) -> "LeaseHolder":
        """Start to renew."""
        self._thread.start()
        return self

    def __exit__(self, _type: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Stop to renew, and release what is still held."""
        self._ended.set()
        self._thread.join()
        with suppress(StoreUnavailable):  # then the leases expire
            crashed = error is not None and not isinstance(error, StoreUnavailable)
            suspects = self._find_suspects(self._ids) if crashed else ()
            release_after_crash(self._catalog, self._owner, self._ids, suspects)

    def _send_heartbeats(self) -> None:
        stall = StallDetector(self._progress, self._progress_timeout_s)
        was_stalled = False
        while not self._ended.wait(min(self._lease_s, self._progress_timeout_s) / 3):
            if is_stalled := stall.is_stalled():
                if not was_stalled:
                    log.error(
                        "%s made no progress for %g s: its leases are no longer renewed",
                        self._owner,
                        self._progress_timeout_s,
                    )
                was_stalled = is_stalled
                continue
            was_stalled = False
            with suppress(StoreUnavailable), self._lock:  # the next heartbeat may succeed; else the leases expire
                self._ids = self._catalog.heartbeat(self._ids, self._owner, lease_s=self._lease_s)


def release_after_crash(catalog: Catalog, owner: str, ids: Iterable[str], suspects: Collection[str]) -> None:
    """Release leases. An attempt is counted at those who may have caused the crash, and not at their neighbors.

    Args:
        catalog: The catalog.
        owner: Holder of the leases.
        ids: Ids of the consolidations to release.
        suspects: Those of them that may have caused the crash.
    """
    catalog.release(suspects, owner, crashed=True)
    catalog.release([id for id in ids if id not in suspects], owner)
