"""Keeps track of revoked versions and keys, so that responses that are already under way stop too.

``known_catalog`` asks it before a request begins, ``response_stream`` before each part of a response is sent.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import anyio

from looper.platform import revocation
from looper.platform.catalog import Catalog, Revocation
from looper.platform.domain.errors import Unauthorized
from looper.platform.objectstore import ObjectStore
from looper.serve.error_responses import looper_error_response, version_revoked, version_unconfirmed
from looper.serve.gateway.catalog_poller import CatalogPoller, run_periodically
from looper.serve.protocol import FullResponse

POLL_INTERVAL_S = 0.5
"""Time between two polls of the catalog, in seconds."""

OVERLAP = timedelta(minutes=5)
"""How far a poll reaches back. A replica's clock may be this much behind that of the primary that it replaces."""

MAX_RECONCILE_INTERVAL_S = 20.0
"""Maximum time between two readings of the markers in the object store, in seconds."""

FIRST_READING_TIMEOUT_S = 5.0
"""How long a gateway waits for the first reading of catalog and markers before it serves, in seconds."""

log = logging.getLogger(__name__)


class RevocationWatcher:
    """The versions and keys that were revoked since this process started, or that are marked in the object store.

    If the catalog cannot be read for ``outage_s``, a revocation may have been missed. From then on nothing is served.

    Args:
        catalog: Catalog to poll. Its calls must end within seconds.
        store: Object store with the markers of revocations.
        outage_s: Time after the last successful poll during which responses may be sent, in seconds.
    """

    def __init__(self, catalog: Catalog, store: ObjectStore, outage_s: float) -> None:
        self._catalog = catalog
        self._store = store
        self._outage_s = outage_s
        # A thread of its own, so that nothing else that waits keeps it from looking.
        self._thread = ThreadPoolExecutor(1, "revocations")
        self._poller = CatalogPoller(catalog.list_revocations, OVERLAP, self._thread)
        self._revoked: set[Revocation] = set()
        self._confirmed_at = time.monotonic()  # whoever opened the catalog has just read it
        self._catalog_time: datetime | None = None
        self._is_reading = True

    @property
    def is_reading(self) -> bool:
        """Whether the last poll of the catalog succeeded."""
        return self._is_reading

    @property
    def confirmed_at(self) -> float:
        """When the last poll that succeeded began, in seconds of the monotonic clock."""
        return self._confirmed_at

    @property
    def is_confirmed(self) -> bool:
        """Whether a poll has succeeded recently enough to serve."""
        return time.monotonic() - self._confirmed_at <= self._outage_s

    def is_revoked(self, revocation: Revocation) -> bool:
        """Return whether a version or key, named by ``revocation``, is known to be revoked."""
        return revocation in self._revoked

    def estimate_catalog_time(self) -> datetime:
        """Return the time of the catalog's clock, continued with this process's monotonic clock since the last poll.

        Raises:
            StoreUnavailable: There was no poll yet, and the catalog does not respond.
        """
        if self._catalog_time is None:
            return self._catalog.now()
        return self._catalog_time + timedelta(seconds=time.monotonic() - self._confirmed_at)

    def find_reason_to_stop(self, digest: str | None, key: str) -> FullResponse | None:
        """Look for a reason why a response must not be sent.

        Args:
            digest: Version that responds, None for the base model.
            key: Id of the API key of the request.

        Returns:
            The error to send instead, None if the response may be sent.
        """
        if digest is not None and self.is_revoked(Revocation("version", digest)):
            return version_revoked()
        if self.is_revoked(Revocation("key", key)):
            return looper_error_response(Unauthorized("the API key was revoked during the response"))
        if not self.is_confirmed:
            return version_unconfirmed()
        return None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Poll the catalog and read the markers while the context is open.

        Yields:
            Nothing. Before that, both are read once, unless that takes too long.
        """
        with anyio.move_on_after(FIRST_READING_TIMEOUT_S):
            for read in (self._poll, self._reconcile):
                try:
                    await read()
                except Exception as error:  # it is repeated below
                    log.warning("revocations are not known yet: %s", getattr(error, "detail", error))
        interval_s = min(MAX_RECONCILE_INTERVAL_S, self._outage_s / 2)
        async with run_periodically(POLL_INTERVAL_S, self._poll), run_periodically(interval_s, self._reconcile):
            yield

    async def _poll(self) -> None:
        started_at = time.monotonic()
        try:
            found = await self._poller.poll()
        except BaseException:
            self._is_reading = False
            raise
        self._revoked |= found.rows
        self._confirmed_at, self._catalog_time, self._is_reading = started_at, found.at, True

    async def _reconcile(self) -> None:
        marked = await asyncio.to_thread(revocation.list_markers, self._store)
        self._revoked |= marked  # before the catalog is asked, which may be away
        await asyncio.to_thread(revocation.reconcile, self._catalog, self._store, marked)
