"""Turns alternate between tenants."""

import asyncio

import pytest

from looper.platform.domain.errors import Overloaded
from looper.serve.fair_turns import FairTurns


def test_tenants_alternate_and_each_may_wait_so_often() -> None:
    async def test() -> None:
        turns, order = FairTurns("work", concurrent=1, max_waiting=3), []
        release = asyncio.Event()

        async def take(tenant: str) -> None:
            async with turns.turn(tenant):
                order.append(tenant)
                await release.wait()

        tasks = [asyncio.create_task(take(tenant)) for tenant in ("a", "a", "a", "a", "b", "b")]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="3 of your requests wait for work"):
            await take("a")
        release.set()
        await asyncio.gather(*tasks)
        assert order == ["a", "a", "b", "a", "b", "a"]
        async with asyncio.timeout(5), turns.turn("c"):
            pass

    asyncio.run(test())


def test_a_caller_that_gives_up_loses_no_turn() -> None:
    async def test() -> None:
        turns = FairTurns("work", concurrent=1, max_waiting=3)
        for moment in (0, 1):
            async with asyncio.timeout(5):
                async with turns.turn("a"):
                    waiting = asyncio.create_task(turns.turn("b").__aenter__())
                    await asyncio.sleep(0)
                    if moment == 0:
                        waiting.cancel()
                waiting.cancel()  # in moment 1, the turn has just been given
                await asyncio.wait([waiting])
                async with turns.turn("c"):
                    pass

    asyncio.run(test())
