"""Requests at which engines died take turns, and are convicted or cleared."""

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest

from looper.serve.deployment import crash_suspects
from looper.serve.deployment.crash_suspects import MAX_DEATHS, REFUSED_FOR_S, CrashSuspects
from looper.serve.protocol import EngineRequest, EngineUnavailable

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def request(prompt: str, tenant: str = "t", request_id: str = "1") -> EngineRequest:
    body = {"prompt": prompt, "request_id": request_id}
    return EngineRequest("completions", body, digest=None, rank=0, tenant_hash=tenant)


async def die(suspects: CrashSuspects, *requests: EngineRequest) -> None:
    """Let an engine die that had generated for all of the requests."""
    for dying in requests:
        async with suspects.watch(dying) as trial:
            trial.end_turn()
            trial.record_death()


async def is_refused(suspects: CrashSuspects, candidate: EngineRequest) -> bool:
    try:
        async with suspects.watch(candidate):
            return False
    except EngineUnavailable as error:
        return error.response.status == 422


async def test_one_suspect_at_a_time_until_its_first_token() -> None:
    suspects, order = CrashSuspects(), list[str]()
    await die(suspects, request("a"), request("b"))
    has_begun, may_generate = asyncio.Event(), asyncio.Event()

    async def run_a() -> None:
        async with suspects.watch(request("a")) as trial:
            has_begun.set()
            await may_generate.wait()
            order.append("a generated")
            trial.end_turn()
            await b_has_begun.wait()

    async def run_b() -> None:
        async with suspects.watch(request("b")):
            order.append("b began")
            b_has_begun.set()

    b_has_begun = asyncio.Event()
    a = asyncio.create_task(run_a())
    await has_begun.wait()
    b = asyncio.create_task(run_b())
    async with suspects.watch(request("c")):  # who is no suspect waits for nobody
        order.append("c began")
    may_generate.set()
    await asyncio.gather(a, b)
    assert order == ["c began", "a generated", "b began"]


async def test_a_death_in_its_turn_convicts_a_request_and_only_it() -> None:
    suspects = CrashSuspects()
    await die(suspects, request("killer"), request("innocent"))
    async with suspects.watch(request("killer")) as trial:
        trial.record_death()
    assert await is_refused(suspects, request("killer", request_id="2"))
    assert not await is_refused(suspects, request("innocent"))
    assert not await is_refused(suspects, request("killer", tenant="another"))


async def test_a_request_is_convicted_at_the_last_of_max_deaths() -> None:
    suspects = CrashSuspects()
    for _ in range(MAX_DEATHS):
        assert not await is_refused(suspects, request("late killer"))
        await die(suspects, request("late killer"))
    assert await is_refused(suspects, request("late killer"))


async def test_equal_requests_that_die_with_one_engine_count_once() -> None:
    suspects = CrashSuspects()
    async with AsyncExitStack() as stack:
        trials = [await stack.enter_async_context(suspects.watch(request("popular"))) for _ in range(2 * MAX_DEATHS)]
        for trial in trials:
            trial.record_death()
    assert not await is_refused(suspects, request("popular"))


async def test_a_complete_response_clears_a_suspect() -> None:
    suspects = CrashSuspects()
    await die(suspects, request("a"))
    async with suspects.watch(request("a")) as trial:
        trial.record_end()
    async with suspects.watch(request("a")) as trial:
        trial.record_death()
    assert not await is_refused(suspects, request("a"))


async def test_a_conviction_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    suspects, clock = CrashSuspects(), [1000.0]
    monkeypatch.setattr(crash_suspects.time, "monotonic", lambda: clock[0])
    for _ in range(MAX_DEATHS):
        await die(suspects, request("a"))
    clock[0] += REFUSED_FOR_S
    assert await is_refused(suspects, request("a"))
    clock[0] += 0.001
    assert not await is_refused(suspects, request("a"))


async def test_a_suspect_does_not_wait_for_ever_and_leaves_its_place_when_it_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(crash_suspects, "MAX_TURN_WAIT_S", 0.01)
    suspects = CrashSuspects()
    await die(suspects, request("a"), request("b"))
    async with suspects.watch(request("a")):
        with pytest.raises(EngineUnavailable) as raised:
            async with suspects.watch(request("b")):
                pass
        assert raised.value.response.headers["retry-after"] == "1"
    async with suspects.watch(request("b")):
        pass


async def test_the_number_of_suspects_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crash_suspects, "MAX_SUSPECTS", 2)
    suspects: Any = CrashSuspects()
    for prompt in "abc":
        suspects.record_death(request(prompt), time.monotonic(), had_turn=True)
    assert [await is_refused(suspects, request(prompt)) for prompt in "abc"] == [False, True, True]
