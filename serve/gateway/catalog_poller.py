"""Polls the catalog for recent changes: revoked versions (``revocation``) and promotions (``adapter_prefetcher``)."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar

from looper.platform.domain.errors import StoreUnavailable

log = logging.getLogger(__name__)

Row = TypeVar("Row")


class CatalogPoller(Generic[Row]):
    """Finds the rows that a query has returned for the first time since the poller was created.

    Args:
        query: Catalog method that returns the hashable rows changed since a time. It runs in a worker thread.
        overlap: How far each poll reaches back before the previous one. It covers the difference between the clocks of
            several machines.
    """

    def __init__(self, query: Callable[[datetime], Iterable[Row]], overlap: timedelta) -> None:
        self._query = query
        self._overlap = overlap
        self._polled_at = datetime.now(UTC)
        self._recent: set[Row] = set()

    async def poll(self) -> set[Row]:
        """Query the catalog once.

        Returns:
            Rows that the previous poll did not return.

        Raises:
            StoreUnavailable: The catalog does not respond. The next poll covers this one's time too.
        """
        started_at = datetime.now(UTC)
        rows = set(await asyncio.to_thread(self._query, self._polled_at - self._overlap))
        new = rows - self._recent
        self._recent, self._polled_at = rows, started_at
        return new


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
