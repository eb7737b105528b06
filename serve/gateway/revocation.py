"""Which versions may speak no more, kept up to date: answers that were under way stop, too."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

from looper.platform.catalog import Catalog
from looper.platform.domain.errors import StoreUnavailable

LOOK_S = 0.5
"""Between two looks at the catalog."""

OVERLAP = timedelta(seconds=60)
"""Clocks of several machines differ: what was revoked a little before the last look is read again."""

log = logging.getLogger(__name__)


class RevocationWatcher:
    """The digests of what was revoked since this process began. New requests never ask here: they do not resolve."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._digests: set[str] = set()

    def __contains__(self, digest: object) -> bool:
        return digest in self._digests

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Inside, the catalog is looked at."""
        looking = asyncio.create_task(self._look())
        try:
            yield
        finally:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking

    async def _look(self) -> None:
        looked = datetime.now(UTC)
        while True:
            since, looked = looked - OVERLAP, datetime.now(UTC)
            try:
                self._digests.update(await asyncio.to_thread(self._catalog.revoked_since, since))
            except StoreUnavailable as error:
                log.warning("%s", error)
                looked = since + OVERLAP
            await asyncio.sleep(LOOK_S)
