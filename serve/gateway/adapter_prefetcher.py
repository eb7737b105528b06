"""Loads adapters before requests wait for them: promoted, popular and pinned ones. The gateway's application runs it.

It reads the catalog and calls ``EngineClient.prefetch``, which loads an adapter on the replica that gets its requests.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta

from looper.platform.catalog import Catalog, RouteTarget
from looper.platform.domain.errors import LooperError
from looper.platform.domain.names import ModelName
from looper.serve.gateway.catalog_poller import CatalogPoller, run_periodically
from looper.serve.protocol import EngineClient

POLL_INTERVAL_S = 1.0
"""Time between two polls of the catalog for promoted versions, in seconds."""

OVERLAP = timedelta(seconds=2)
"""Time between a promotion's reading of the clock and its commit. A longer one only loses its prefetch."""

REFRESH_INTERVAL_S = 10.0
"""Time between two prefetches of popular and pinned adapters, in seconds.

They are repeated because an adapter may have been evicted, or its requests may go to another replica by now.
"""

MAX_PROMOTED = 64
"""Maximum number of versions that one poll prefetches. Of more, those that get requests are loaded for them."""

POPULARITY_DECAY = 0.8
"""Factor by which an adapter's request count decays per refresh. An adapter that falls to 1 is no longer prefetched."""

log = logging.getLogger(__name__)


class AdapterPrefetcher:
    """Decides which adapters to prefetch, from one gateway's requests and from the catalog.

    Args:
        catalog: Catalog to poll.
        engine: Engines that load the adapters.
        pinned: Model names whose adapters always stay in memory.
        max_popular: Number of the most popular adapters to prefetch.
    """

    def __init__(
        self, catalog: Catalog, engine: EngineClient, *, pinned: Iterable[str] = (), max_popular: int = 16
    ) -> None:
        self._catalog = catalog
        self._engine = engine
        self._max_popular = max_popular
        self._pinned = [ModelName.parse(name) for name in pinned]
        self._popularity: Counter[RouteTarget] = Counter()
        self._promotions = CatalogPoller(catalog.list_updated_channels, OVERLAP)

    def record_request(self, target: RouteTarget) -> None:
        """Count a request toward the popularity of its version.

        Args:
            target: The version that the request goes to.
        """
        self._popularity[target] += 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Prefetch adapters in the background while the context is open.

        Yields:
            Nothing.
        """
        async with (
            run_periodically(POLL_INTERVAL_S, self.prefetch_promoted),
            run_periodically(REFRESH_INTERVAL_S, self.prefetch_popular),
        ):
            yield

    async def prefetch_promoted(self) -> None:
        """Prefetch the versions that channels have been pointed to since the last call, but only so many."""
        promoted = list((await self._promotions.poll()).rows)
        await self._prefetch(promoted[:MAX_PROMOTED], hold_s=0)

    async def prefetch_popular(self) -> None:
        """Prefetch and hold the pinned versions, then prefetch the most popular ones."""
        pinned = await asyncio.to_thread(self._resolve_pinned)
        await self._prefetch(pinned, hold_s=3 * REFRESH_INTERVAL_S)
        await self._prefetch([target for target, _ in self._popularity.most_common(self._max_popular)], hold_s=0)
        self._popularity = Counter(
            {target: count * POPULARITY_DECAY for target, count in self._popularity.items() if count > 1}
        )

    def _resolve_pinned(self) -> list[RouteTarget]:
        targets: list[RouteTarget] = []
        for name in self._pinned:
            try:
                targets += self._catalog.resolve_targets(name)
            except LooperError as error:
                log.warning("pinned skill %s is not prefetched; check the setting serve.pinned: %s", name, error)
        return targets

    async def _prefetch(self, targets: Iterable[RouteTarget], hold_s: float) -> None:
        prefetch = self._engine.prefetch
        await asyncio.gather(*(prefetch(target.base, target.digest, target.rank, hold_s) for target in targets))
