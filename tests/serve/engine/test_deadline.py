"""A request's time runs from its arrival, whatever it waits for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from looper.platform.domain.errors import Overloaded
from looper.serve.engine.deadline import Deadline


@asynccontextmanager
async def wait_for(event: asyncio.Event) -> AsyncIterator[str]:
    await event.wait()
    yield "entered"


def test_what_takes_longer_than_the_request_allows_is_refused() -> None:
    async def test() -> None:
        deadline = Deadline(0.01)
        async with AsyncExitStack() as stack:
            with pytest.raises(Overloaded, match=r"loading takes longer than the 0.01 s"):
                await deadline.enter(stack, wait_for(asyncio.Event()), "loading")
        assert deadline.remaining_s == 0

    asyncio.run(test())


def test_a_request_without_a_limit_waits() -> None:
    async def test() -> None:
        event = asyncio.Event()
        asyncio.get_running_loop().call_later(0.01, event.set)
        async with AsyncExitStack() as stack:
            assert await Deadline(None).enter(stack, wait_for(event), "loading") == "entered"
        assert Deadline(None).remaining_s is None

    asyncio.run(test())
