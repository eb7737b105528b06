"""What a tenant may use per minute, as the limiter in ``rate_limits`` sees it.

With one gateway, a budget is a token bucket in memory. With several, the bucket is a row of the catalog, and each
gateway leases a part of it at a time, so that most requests need no SQL. What the gateways have leased together never
exceeds what the bucket held: no number of gateways allows more requests than the limit. Tokens are counted only while a
request is answered, so the tokens of requests that run, and at most one leased part per gateway, can come on top. While
the catalog is away, each gateway allows its even share.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from looper.platform.catalog import Catalog
from looper.platform.domain.errors import StoreUnavailable
from looper.platform.tenancy.token_bucket import TokenBucket
from looper.serve.gateway.catalog_poller import run_periodically

LEASES_PER_MINUTE = 8
"""Number of leases in which a gateway takes its even share of a limit. More cost SQL; fewer keep more from others."""

SETTLE_INTERVAL_S = 1.0
"""Time after which a gateway pays what it has used beyond its leases, and returns what it has not used, in seconds."""

MAX_REFUSAL_S = 1.0
"""Time for which a gateway does not ask the catalog again after a tenant's bucket was empty, in seconds."""


class Budget(Protocol):
    """What one tenant may use of one unit: requests or tokens."""

    per_minute: int
    """The limit."""

    def holds(self, amount: float) -> bool:
        """Return whether the budget holds an amount now.

        Args:
            amount: The amount.

        Returns:
            Whether it does.
        """

    def take(self, amount: float) -> None:
        """Take an amount. The budget may become negative.

        Args:
            amount: The amount. Negative: it is given back.
        """

    async def replenish(self, amount: float, now: float) -> float:
        """Add what the budget has gained.

        Args:
            amount: The amount that is needed, at most ``per_minute``.
            now: Time in seconds of a monotonic clock.

        Returns:
            Seconds until the budget holds the amount. 0: another request of this moment can only have been faster.
        """


class BudgetSource(Protocol):
    """Creates the budgets of all tenants."""

    def open(self, tenant: str, unit: str, per_minute: int, now: float) -> Budget:
        """Return a new budget.

        Args:
            tenant: The tenant.
            unit: "requests" or "tokens".
            per_minute: The limit.
            now: Time in seconds of a monotonic clock.

        Returns:
            The budget. It is full, unless another gateway has used it.
        """


class MemoryBudget:
    """A budget that only this gateway uses.

    Args:
        per_minute: The limit.
        now: Time in seconds of a monotonic clock.
    """

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self._bucket = TokenBucket(per_minute, per_minute, now)

    def holds(self, amount: float) -> bool:
        """Return whether the budget holds an ``amount`` now."""
        return self._bucket.level >= amount

    def take(self, amount: float) -> None:
        """Take an ``amount``."""
        self._bucket.level -= amount

    async def replenish(self, amount: float, now: float) -> float:
        """Add what the budget has gained until ``now``; return the seconds until it holds an ``amount``."""
        self._bucket.per_minute = self.per_minute
        self._bucket.refill(now)
        return self._bucket.seconds_until(amount)


class MemoryBudgets:
    """Budgets of the only gateway."""

    def open(self, tenant: str, unit: str, per_minute: int, now: float) -> MemoryBudget:
        """Return a full budget of ``per_minute`` at the time ``now``, whatever the ``tenant`` and the ``unit``."""
        return MemoryBudget(per_minute, now)


class LeasedBudget:
    """A gateway's part of a budget that several gateways share.

    Args:
        catalog: Catalog with the bucket.
        gateways: Number of gateways.
        tenant: The tenant.
        unit: "requests" or "tokens".
        per_minute: The limit.
        now: Time in seconds of a monotonic clock.
    """

    def __init__(self, catalog: Catalog, gateways: int, tenant: str, unit: str, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self._catalog = catalog
        self._gateways = gateways
        self._key = tenant, unit
        self._level = 0.0  # what is left of the leases; negative: it was used before it was leased
        self._is_used = False  # since the last settlement
        self._refused_until = now
        self._lock = asyncio.Lock()
        self._share = TokenBucket(max(1, per_minute // gateways), 0, now)

    def holds(self, amount: float) -> bool:
        """Return whether what is left of the leases is at least ``amount``."""
        return self._level >= amount

    def take(self, amount: float) -> None:
        """Take an ``amount`` from the leases."""
        self._level -= amount
        self._is_used = True

    async def replenish(self, amount: float, now: float) -> float:
        """Lease more if less than ``amount`` is left at the time ``now``; return the seconds until there is enough."""
        if self.holds(amount):
            return 0.0
        if now < self._refused_until:
            return self._refused_until - now
        async with self._lock:
            if self.holds(amount):  # another request of the tenant has leased meanwhile
                return 0.0
            try:
                wait_s = await self._lease(amount)
            except StoreUnavailable:
                wait_s = self._take_share(amount, now)
            self._refused_until = now + min(wait_s, MAX_REFUSAL_S)
            return wait_s

    async def settle(self) -> None:
        """Pay what was used beyond the leases, and return the leases if they were not used since the last call."""
        async with self._lock:
            if self._level < 0 or (self._level > 0 and not self._is_used):
                await self._lease(None)
            self._is_used = False

    async def _lease(self, amount: float | None) -> float:
        """Exchange what is left for a lease of at least ``amount``. None: for nothing."""
        # A client that goes away cannot stop the exchange half-way.
        return await asyncio.shield(asyncio.create_task(self._exchange(amount)))

    async def _exchange(self, amount: float | None) -> float:
        part = self.per_minute / (LEASES_PER_MINUTE * self._gateways)
        left, self._level = self._level, 0.0  # what is taken meanwhile is paid with the next lease
        wanted = (0.0, 0.0) if amount is None else (amount, max(amount, part))
        try:
            granted, wait_s = await asyncio.to_thread(
                self._catalog.lease_budget, *self._key, self.per_minute, left, *wanted
            )
        except StoreUnavailable:
            self._level += left
            raise
        self._level += granted
        return wait_s

    def _take_share(self, amount: float, now: float) -> float:
        self._share.per_minute = max(1, self.per_minute // self._gateways)
        self._share.refill(now)
        needed = min(amount, self._share.per_minute)
        if wait_s := self._share.seconds_until(needed):
            return wait_s
        self._share.level -= amount - self._level
        self._level = amount
        return 0.0


class LeasedBudgets:
    """Budgets that several gateways share.

    Args:
        catalog: Catalog with the buckets.
        gateways: Number of gateways.
    """

    def __init__(self, catalog: Catalog, gateways: int) -> None:
        self._catalog = catalog
        self._gateways = gateways
        self._budgets: dict[tuple[str, str], LeasedBudget] = {}

    def open(self, tenant: str, unit: str, per_minute: int, now: float) -> LeasedBudget:
        """Return this gateway's part of the ``tenant``'s budget of a ``unit``: ``per_minute``, at the time ``now``."""
        budget = LeasedBudget(self._catalog, self._gateways, tenant, unit, per_minute, now)
        self._budgets[tenant, unit] = budget
        return budget

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Settle all budgets periodically while the context is open.

        Yields:
            Nothing.
        """
        async with run_periodically(SETTLE_INTERVAL_S, self.settle):
            yield

    async def settle(self) -> None:
        """Settle all budgets."""
        for budget in list(self._budgets.values()):
            await budget.settle()
