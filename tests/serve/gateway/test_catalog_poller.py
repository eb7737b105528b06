"""The poller of the catalog, with a query that the tests script."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from looper.platform.domain.errors import StoreUnavailable
from looper.serve.gateway.catalog_poller import CatalogPoller, run_periodically

OVERLAP = timedelta(seconds=5)


def test_each_row_is_returned_once() -> None:
    results: Iterator[list[str]] = iter([["a"], ["a", "b"], ["b"], []])
    poller = CatalogPoller(lambda _: next(results), OVERLAP)

    async def poll_all() -> list[set[str]]:
        return [await poller.poll() for _ in range(4)]

    assert asyncio.run(poll_all()) == [{"a"}, {"b"}, set(), set()]


def test_a_poll_covers_the_time_of_those_that_failed() -> None:
    created_at = datetime.now(UTC)
    times: list[datetime] = []

    def query(since: datetime) -> list[str]:
        times.append(since)
        if len(times) == 1:
            raise StoreUnavailable("the catalog is down")
        return []

    poller = CatalogPoller(query, OVERLAP)

    async def poll_thrice() -> None:
        with pytest.raises(StoreUnavailable):
            await poller.poll()
        await poller.poll()
        await poller.poll()

    asyncio.run(poll_thrice())
    first, second, third = times
    assert first == second < third
    assert abs(first + OVERLAP - created_at) < timedelta(seconds=1)


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
