"""How many new requests of a key are in the proxy at once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from looper.serve.deployment.proxy_turns import RequestTurnMiddleware
from looper.serve.gateway.turn_end import TURN_END


class Gateway:
    """An application whose responses begin when the test says so, and whose requests are with an engine before."""

    def __init__(self) -> None:
        self.inside: list[str] = []
        self.arrivals = asyncio.Queue[str]()
        self.begin: dict[str, asyncio.Event] = {}
        self.leave: dict[str, asyncio.Event] = {}
        self.end = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.inside.append(scope["path"])
        self.arrivals.put_nowait(scope["path"])
        if scope["path"] in self.leave:
            await self.leave[scope["path"]].wait()
            assert TURN_END in scope["extensions"]
            await send({"type": TURN_END})
        await self.begin.setdefault(scope["path"], asyncio.Event()).wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await self.end.wait()


async def discard(message: Message) -> None:
    """Take a message of a response."""
    assert message["type"].startswith("http.response."), "the server knows no other"


async def no_body() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


def request(middleware: RequestTurnMiddleware, path: str, key: str | None, client: str = "c") -> asyncio.Task[None]:
    headers = [(b"host", b"x"), *([(b"authorization", key.encode())] if key else [])]
    scope = {"type": "http", "path": path, "headers": headers, "client": (client, 1)}
    return asyncio.create_task(middleware(scope, no_body, discard))  # type: ignore[arg-type]


def run(test: Callable[[Gateway, RequestTurnMiddleware], Awaitable[None]], **bounds: Any) -> None:
    async def run_it() -> None:
        gateway = Gateway()
        await test(gateway, RequestTurnMiddleware(gateway, **{"max_turns": 2, "max_turn_s": 600.0} | bounds))

    asyncio.run(asyncio.wait_for(run_it(), 30))


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def expect_all_turns_are_free(gateway: Gateway, middleware: RequestTurnMiddleware) -> None:
    gateway.inside.clear()
    tasks = [request(middleware, f"/last{number}", "a") for number in range(3)]
    await settle()
    assert gateway.inside == ["/last0", "/last1"]
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def test_the_next_request_of_a_key_goes_in_when_a_response_begins_and_other_keys_do_not_wait() -> None:
    async def test(gateway: Gateway, middleware: RequestTurnMiddleware) -> None:
        tasks = [request(middleware, f"/a{number}", "a") for number in range(4)]
        await settle()
        assert gateway.inside == ["/a0", "/a1"]
        tasks.append(request(middleware, "/b0", "b"))
        await settle()
        assert gateway.inside == ["/a0", "/a1", "/b0"]
        gateway.begin["/a1"].set()
        await settle()
        assert gateway.inside == ["/a0", "/a1", "/b0", "/a2"], "though the response to /a1 has not ended"
        for path in list(gateway.begin):
            gateway.begin[path].set()
        await settle()
        assert gateway.inside[-1] == "/a3"
        gateway.begin["/a3"].set()
        gateway.end.set()
        await asyncio.gather(*tasks)
        await expect_all_turns_are_free(gateway, middleware)

    run(test)


def test_a_request_that_is_with_an_engine_gives_its_turn_away() -> None:
    async def test(gateway: Gateway, middleware: RequestTurnMiddleware) -> None:
        gateway.leave["/a0"] = asyncio.Event()
        tasks = [request(middleware, f"/a{number}", "a") for number in range(4)]
        await settle()
        assert gateway.inside == ["/a0", "/a1"]
        gateway.leave["/a0"].set()
        await settle()
        assert gateway.inside == ["/a0", "/a1", "/a2"]
        gateway.begin["/a0"].set()
        await settle()
        assert gateway.inside == ["/a0", "/a1", "/a2"], "it had no second turn to give away"
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await expect_all_turns_are_free(gateway, middleware)

    run(test)


def test_a_request_that_takes_long_gives_its_turn_away() -> None:
    async def test(gateway: Gateway, middleware: RequestTurnMiddleware) -> None:
        tasks = [request(middleware, f"/a{number}", "a") for number in range(5)]
        for number in range(5):
            assert await gateway.arrivals.get() == f"/a{number}"
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    run(test, max_turn_s=0.02)


@pytest.mark.parametrize("has_turn", [True, False])
def test_a_client_that_leaves_takes_no_turn_with_it(has_turn: bool) -> None:
    async def test(gateway: Gateway, middleware: RequestTurnMiddleware) -> None:
        tasks = [request(middleware, f"/a{number}", "a") for number in range(4)]
        await settle()
        tasks[0 if has_turn else 2].cancel()
        await settle()
        gateway.begin["/a1"].set()
        await settle()
        assert gateway.inside == ["/a0", "/a1", *(["/a2"] if has_turn else []), "/a3"]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await expect_all_turns_are_free(gateway, middleware)

    run(test)


def test_requests_without_a_key_are_counted_by_address() -> None:
    async def test(gateway: Gateway, middleware: RequestTurnMiddleware) -> None:
        tasks = [request(middleware, f"/1-{number}", None, "one") for number in range(3)]
        tasks.append(request(middleware, "/2-0", None, "two"))
        await settle()
        assert gateway.inside == ["/1-0", "/1-1", "/2-0"]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    run(test)
