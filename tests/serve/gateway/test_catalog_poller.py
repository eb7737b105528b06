"""The poller of the catalog, with a query that the tests script."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from looper.platform.catalog import Changes
from looper.platform.domain.errors import StoreUnavailable
from looper.serve.gateway.catalog_poller import CatalogPoller, run_periodically

OVERLAP = timedelta(seconds=5)
START = datetime(2030, 1, 1, tzinfo=UTC)


def test_each_row_is_returned_once() -> None:
    results: Iterator[list[str]] = iter([["a"], ["a", "b"], ["b"], []])
    poller = CatalogPoller(lambda _: Changes(START, frozenset(next(results))), OVERLAP)

    async def poll_all() -> list[frozenset[str]]:
        return [(await poller.poll()).rows for _ in range(4)]

    assert asyncio.run(poll_all()) == [{"a"}, {"b"}, set(), set()]


def test_a_poll_covers_the_time_of_those_that_failed() -> None:
    times: list[datetime | None] = []

    def query(since: datetime | None) -> Changes[str]:
        times.append(since)
        if len(times) == 2:
            raise StoreUnavailable("the catalog is down")
        return Changes(START + timedelta(seconds=len(times)), frozenset())

    poller = CatalogPoller(query, OVERLAP)

    async def poll_all() -> None:
        await poller.poll()
        with pytest.raises(StoreUnavailable):
            await poller.poll()
        await poller.poll()
        await poller.poll()

    asyncio.run(poll_all())
    first, third = (START + timedelta(seconds=number) - OVERLAP for number in (1, 3))
    assert times == [None, first, first, third], "times of the catalog's clock"


@pytest.mark.parametrize("error", [StoreUnavailable("the catalog is down"), RuntimeError("a bug")])
def test_a_background_action_runs_again_after_an_error(error: Exception) -> None:
    async def run() -> int:
        runs, is_repeated = 0, asyncio.Event()

        async def action() -> None:
            nonlocal runs
            runs += 1
            if runs == 1:
                raise error
            is_repeated.set()

        async with run_periodically(0.001, action):
            await asyncio.wait_for(is_repeated.wait(), 10)
        return runs

    assert asyncio.run(run()) >= 2
