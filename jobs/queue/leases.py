"""The hold on claimed work: renewed while the holder lives, given back at its end, run out when it dies.

An end by an exception is a death, too, unless it is the store's or the catalog's fault.
"""

import threading
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType

from looper.platform.catalog import Catalog
from looper.platform.domain.errors import StoreUnavailable


class LeaseHolder:
    """Renews the leases of ``owner`` while entered. What has not ended or been handed over at the end is given back."""

    def __init__(self, catalog: Catalog, owner: str, lease_s: float, ids: Iterable[str] = ()) -> None:
        self._catalog = catalog
        self._owner = owner
        self._lease_s = lease_s
        self._ids = set(ids)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def add(self, id: str) -> None:
        with self._lock:
            self._ids.add(id)

    def __enter__(self) -> "LeaseHolder":
        self._thread.start()
        return self

    def __exit__(self, _type: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        with suppress(StoreUnavailable):  # the leases run out
            died = error is not None and not isinstance(error, StoreUnavailable)
            self._catalog.release(self._ids, self._owner, died=died)

    def _beat(self) -> None:
        while not self._over.wait(self._lease_s / 3):
            with suppress(StoreUnavailable), self._lock:  # the next beat may come through; else the lease runs out
                self._ids = self._catalog.heartbeat(self._ids, self._owner, lease_s=self._lease_s)
