"""Keep leases on consolidations alive while a process works on them. Trainers and the queue worker use it.

Leases are released when the work ends. If the process dies, they expire.
"""

import threading
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType

from looper.platform.catalog import Catalog
from looper.platform.domain.errors import StoreUnavailable


class LeaseHolder:
    """Context manager that renews leases in a thread, and releases those that are still held at the end.

    If the block ends with an exception, the release counts as a crash in the number of attempts, unless the exception
    says that the object store or the catalog is down.
    """

    def __init__(self, catalog: Catalog, owner: str, lease_s: float, ids: Iterable[str] = ()) -> None:
        """Prepare to renew leases.

        Args:
            catalog: The catalog.
            owner: Holder of the leases.
            lease_s: Duration of a lease in seconds. Leases are renewed three times as often.
            ids: Ids of the consolidations that ``owner`` has leased.
        """
        self._catalog = catalog
        self._owner = owner
        self._lease_s = lease_s
        self._ids = set(ids)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._send_heartbeats, name="heartbeat", daemon=True)

    def add(self, id: str) -> None:
        """Renew the lease of the consolidation ``id``, too."""
        with self._lock:
            self._ids.add(id)

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
            self._catalog.release(self._ids, self._owner, crashed=crashed)

    def _send_heartbeats(self) -> None:
        while not self._ended.wait(self._lease_s / 3):
            with suppress(StoreUnavailable), self._lock:  # the next heartbeat may succeed; else the leases expire
                self._ids = self._catalog.heartbeat(self._ids, self._owner, lease_s=self._lease_s)
