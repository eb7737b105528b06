"""Which adapters are brought before anyone waits for them: what was promoted, what is popular, what is pinned."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

from looper.platform.catalog import Catalog, Target
from looper.platform.domain.errors import LooperError
from looper.platform.domain.names import ModelName
from looper.serve.protocol import EngineClient

LOOK_S = 1.0
"""Between two looks at the catalog for what was promoted."""

OVERLAP = timedelta(seconds=2)
"""Clocks of several machines differ: what was promoted a little before the last look is looked at again."""

WARM_S = 10.0
"""Between two rounds in which what is popular and what is pinned is brought again, should it have been put out, or
should its requests go to another replica by now."""

FADES = 0.8
"""Of an adapter's popularity, what is left a round later. What has nearly faded is left alone."""

log = logging.getLogger(__name__)


class AdapterPrefetcher:
    """Sees the requests of one gateway, and the catalog."""

    def __init__(self, catalog: Catalog, engine: EngineClient, *, pinned: Iterable[str] = (), warm: int = 16) -> None:
        """The ``warm`` most popular are kept where their requests go, and ``pinned``, names of models, come first."""
        self._catalog = catalog
        self._engine = engine
        self._warm = warm
        self._pinned = [ModelName.parse(name) for name in pinned]
        self._popular: Counter[Target] = Counter()
        self._looked = datetime.now(UTC)
        self._seen: set[Target] = set()

    def asked(self, target: Target) -> None:
        """A request is for this version."""
        self._popular[target] += 1

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Inside, adapters are brought."""
        tasks = [
            asyncio.create_task(self._every(LOOK_S, self.promoted)),
            asyncio.create_task(self._every(WARM_S, self.warm)),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task

    async def promoted(self) -> None:
        """Bring what channels were pointed to since this was called last."""
        since, self._looked = self._looked - OVERLAP, datetime.now(UTC)
        now = set(await asyncio.to_thread(self._catalog.pointed_since, since))
        new, self._seen = now - self._seen, now
        await self._bring(new, hold_s=0)

    async def warm(self) -> None:
        """Bring what is pinned, and keep it; bring what is popular."""
        pinned = await asyncio.to_thread(self._resolve)
        await self._bring(pinned, hold_s=3 * WARM_S)
        await self._bring([target for target, _ in self._popular.most_common(self._warm)], hold_s=0)
        faded = {target: count * FADES for target, count in self._popular.items() if count > 1}
        self._popular = Counter(faded)

    def _resolve(self) -> list[Target]:
        targets: list[Target] = []
        for name in self._pinned:
            try:
                targets += self._catalog.targets(name)
            except LooperError as error:
                log.warning("serve.pinned: %s", error)
        return targets

    async def _bring(self, targets: Iterable[Target], hold_s: float) -> None:
        await asyncio.gather(*(self._engine.prefetch(each.digest, each.rank, hold_s) for each in targets))

    async def _every(self, seconds: float, do: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await do()
            except Exception:  # what was not brought ahead is brought when it is asked for
                log.exception("a round of prefetching failed")
            await asyncio.sleep(seconds)
