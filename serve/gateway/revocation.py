"""Keeps track of revoked versions, so that streams that are already running stop too. Used by ``response_stream``."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from looper.platform.catalog import Catalog
from looper.serve.gateway.catalog_poller import CatalogPoller, run_periodically

POLL_INTERVAL_S = 0.5
"""Time between two polls of the catalog, in seconds."""

CLOCK_SKEW = timedelta(seconds=60)
"""Maximum difference between the clocks of the machines that revoke and that serve."""


class RevocationWatcher:
    """The digests of the versions that were revoked since this process started.

    New requests do not need it, because a revoked version cannot be resolved.

    Args:
        catalog: Catalog to poll.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._poller = CatalogPoller(catalog.list_revoked_digests, CLOCK_SKEW)
        self._digests: set[str] = set()

    def __contains__(self, digest: object) -> bool:
        return digest in self._digests

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Poll the catalog while the context is open.

        Yields:
            Nothing.
        """
        async with run_periodically(POLL_INTERVAL_S, self._poll):
            yield

    async def _poll(self) -> None:
        self._digests |= await self._poller.poll()
