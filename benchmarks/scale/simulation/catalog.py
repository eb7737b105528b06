"""What the simulated gateways read of the catalog: the versions that channels point to, and recent promotions."""

import asyncio
import hashlib
from collections import Counter, deque
from datetime import UTC, datetime, timedelta

from looper.platform.catalog import Changes, RouteTarget

RANK = 16
"""Rank of all adapters."""

KEPT = timedelta(minutes=1)
"""Time for which promotions are remembered. A poll reaches back for seconds."""

_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class SimulatedCatalog:
    """Adapters whose version is a number that grows with each promotion.

    Attributes:
        polls: Number of polls for promotions.
        polled_rows: Number of rows that the polls have returned.
    """

    def __init__(self) -> None:
        self._versions = Counter[int]()
        self._promoted: deque[tuple[datetime, RouteTarget]] = deque()
        self.polls = self.polled_rows = 0

    def resolve(self, adapter: int) -> RouteTarget:
        """Return the version that an adapter's channel points to.

        Args:
            adapter: Number of the adapter.

        Returns:
            The version.
        """
        digest = hashlib.sha256(f"{adapter} {self._versions[adapter]}".encode()).hexdigest()
        return RouteTarget(channel="prod", digest=digest, rank=RANK, base="base", share=1.0)

    def promote(self, adapter: int) -> None:
        """Point an adapter's channel to a new version.

        Args:
            adapter: Number of the adapter.
        """
        self._versions[adapter] += 1
        now = self._now()
        self._promoted.append((now, self.resolve(adapter)))
        while self._promoted[0][0] < now - KEPT:
            self._promoted.popleft()

    def list_updated_channels(self, since: datetime | None) -> Changes[RouteTarget]:
        """Return the promotions since a time, as ``Catalog.list_updated_channels``.

        Args:
            since: The time. None: only the present time.

        Returns:
            The versions, and the present time.
        """
        now = self._now()
        found = frozenset(target for at, target in self._promoted if at > (since or now))
        self.polls += 1
        self.polled_rows += len(found)
        return Changes(now, found)

    def _now(self) -> datetime:
        return _EPOCH + timedelta(seconds=asyncio.get_running_loop().time())
