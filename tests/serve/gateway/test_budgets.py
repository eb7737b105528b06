"""Limits over several gateways, on a clock that the tests set and on a real catalog."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from looper.platform.catalog import Catalog, Quota
from looper.platform.domain.errors import RateLimited, StoreUnavailable
from looper.platform.settings import load_settings
from looper.serve.gateway.budgets import LEASES_PER_MINUTE, LeasedBudgets
from looper.serve.gateway.rate_limits import TenantRateLimiter

GATEWAYS = 3


class Gateways:
    """Limiters of several gateways. The database's clock and theirs stand still between two steps."""

    def __init__(self, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.budgets = [LeasedBudgets(catalog, GATEWAYS) for _ in range(GATEWAYS)]
        self.limiters = [TenantRateLimiter(Quota(), 99, budgets) for budgets in self.budgets]
        start = datetime(2026, 1, 1, tzinfo=UTC)
        monkeypatch.setattr("looper.platform.catalog.budgets.read_clock", lambda _: start + timedelta(seconds=self.now))

    async def admit(self, gateway: int, quota: Quota) -> bool:
        try:
            await self.limiters[gateway].admit("acme", quota, self.now)
        except RateLimited:
            return False
        return True

    async def settle(self) -> None:
        for _ in range(2):  # a lease that was used since the last time is kept once
            for budgets in self.budgets:
                await budgets.settle()


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with closing(Catalog.open(load_settings(home=tmp_path))) as catalog:
        catalog.create_tenant("acme")
        yield catalog


@pytest.fixture
def gateways(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> Gateways:
    return Gateways(catalog, monkeypatch)


@pytest.mark.parametrize("per_minute", [1, 7, 100])
def test_all_gateways_together_admit_exactly_the_limit(gateways: Gateways, per_minute: int) -> None:
    quota = Quota(requests_per_minute=per_minute)

    async def admit_all() -> int:
        return sum([await gateways.admit(number % GATEWAYS, quota) for number in range(3 * per_minute + 30)])

    assert asyncio.run(admit_all()) == per_minute
    gateways.now = 30.0
    assert asyncio.run(admit_all()) == per_minute // 2


def test_one_gateway_alone_may_use_the_whole_limit(gateways: Gateways) -> None:
    quota = Quota(requests_per_minute=100)

    async def admit_all() -> list[int]:
        assert await gateways.admit(1, quota)  # it holds a lease that it does not use
        await gateways.settle()
        return [sum([await gateways.admit(gateway, quota) for _ in range(110)]) for gateway in (0, 1)]

    assert asyncio.run(admit_all()) == [99, 0]


def test_requests_that_arrive_together_are_admitted_up_to_the_limit(gateways: Gateways) -> None:
    quota = Quota(requests_per_minute=50)

    async def admit_together() -> int:
        return sum(await asyncio.gather(*(gateways.admit(number % GATEWAYS, quota) for number in range(90))))

    assert asyncio.run(admit_together()) == 50


def test_a_lease_is_for_many_requests(gateways: Gateways, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    leases, lease_budget = [], catalog.lease_budget
    monkeypatch.setattr(catalog, "lease_budget", lambda *args: leases.append(args) or lease_budget(*args))
    quota = Quota(requests_per_minute=2400)

    async def admit_all() -> int:
        return sum([await gateways.admit(0, quota) for _ in range(2500)])

    assert asyncio.run(admit_all()) == 2400
    assert len(leases) == LEASES_PER_MINUTE * GATEWAYS + 1


def test_tokens_used_at_one_gateway_are_missing_at_another(gateways: Gateways) -> None:
    quota = Quota(tokens_per_minute=600)

    async def use() -> list[bool]:
        admitted = [await gateways.admit(0, quota)]
        gateways.limiters[0].charge("acme", 900)
        await gateways.settle()
        admitted.append(await gateways.admit(1, quota))
        for gateways.now in (30.0, 32.0):
            admitted.append(await gateways.admit(1, quota))
        return admitted

    assert asyncio.run(use()) == [True, False, False, True]


def test_a_client_that_goes_away_loses_no_lease(gateways: Gateways) -> None:
    quota = Quota(requests_per_minute=8 * GATEWAYS)

    async def admit_all() -> int:
        gone = [asyncio.create_task(gateways.admit(0, quota)) for _ in range(5)]
        await asyncio.sleep(0)
        for task in gone:
            task.cancel()
        await asyncio.wait(gone)
        assert all(task.cancelled() for task in gone)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            await task  # the lease that was under way
        return sum([await gateways.admit(0, quota) for _ in range(30)])

    assert asyncio.run(admit_all()) == 8 * GATEWAYS


def test_while_the_catalog_is_away_each_gateway_allows_its_share(
    gateways: Gateways, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota = Quota(requests_per_minute=30)

    def fail(*_: object) -> None:
        raise StoreUnavailable("the catalog is away")

    async def admit_all() -> list[int]:
        for gateway in range(GATEWAYS):
            await gateways.admit(gateway, quota)
        monkeypatch.setattr(catalog, "lease_budget", fail)
        gateways.now = 600.0
        return [sum([await gateways.admit(gateway, quota) for _ in range(30)]) for gateway in range(GATEWAYS)]

    assert all(10 <= admitted <= 11 for admitted in asyncio.run(admit_all()))
