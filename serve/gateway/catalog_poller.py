"""Polls the catalog for recent changes: revoked versions (``revocation``) and promotions (``adapter_prefetcher``)."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from looper.platform.catalog import Changes
from looper.platform.domain.errors import StoreUnavailable

log = logging.getLogger(__name__)

Row = TypeVar("Row")


class CatalogPoller(Generic[Row]):
    """Finds the rows that a query has returned for the first time since the poller was created.

    Args:
        query: Catalog method that returns the rows changed since a time of the catalog's clock, and the time of the
            reading. Without a time it returns the present time at least.
        overlap: How far each poll reaches back before the previous one. It covers transactions that were committed some
            time after they read the clock, and a replica whose clock is behind that of the primary that it replaces.
        executor: Runs the query in a thread. None: the event loop's own, which others may keep busy.
    """

    def __init__(
        self, query: Callable[[datetime | None], Changes[Row]], overlap: timedelta, executor: Executor | None = None
    ) -> None:
        self._query = query
        self._executor = executor
        self._overlap = overlap
        self._polled_at: datetime | None = None
        self._recent: frozenset[Row] = frozenset()

    async def poll(self) -> Changes[Row]:
        """Query the catalog once.

        Returns:
            Rows that the previous poll did not return, and the time of this poll.

        Raises:
            StoreUnavailable: The catalog does not respond. The next poll covers this one's time too.
        """
        since = None if self._polled_at is None else self._polled_at - self._overlap
        found = await asyncio.get_running_loop().run_in_executor(self._executor, self._query, since)
        new = found.rows - self._recent
        self._recent, self._polled_at = found.rows, found.at
        return Changes(found.at, new)


@asynccontextmanager
async def run_periodically(interval_s: float, action: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Run an action again and again in the background while the context is open.

    Args:
        interval_s: Pause between two runs, in seconds.
        action: What to run. If it raises, the error is logged and the next run follows.

    Yields:
        Nothing.
    """

    async def run() -> None:
        while True:
            try:
                await action()
            except StoreUnavailable as error:
                log.warning("a background task of the gateway is repeated in %g s: %s", interval_s, error.detail)
            except Exception:
                log.exception("a background task of the gateway failed; it is repeated in %g s", interval_s)
            await asyncio.sleep(interval_s)

    task = asyncio.create_task(run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
