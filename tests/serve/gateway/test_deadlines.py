"""Deadlines count from the arrival of a request at the gateway, whatever it waits for."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any

import orjson
import pytest
from starlette.types import Message

from looper.platform.catalog import Catalog
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import load_settings
from looper.platform.tenancy import issue_key
from looper.serve.gateway.app import build_gateway
from looper.serve.gateway.deadlines import RequestDeadline
from looper.serve.protocol import AdmissionInfo, EngineOutput, EngineRequest, FullResponse, StreamChunk, TokenCounts

ADMITTED = AdmissionInfo(None, 0.0, 0.0, 0.0, {})
CHUNK = StreamChunk("data: {}\n\n", TokenCounts(1, 1))


class HangingEngine:
    """Yields some outputs and then hangs."""

    def __init__(self, *outputs: EngineOutput) -> None:
        self._outputs = outputs
        self.requests: list[EngineRequest] = []
        self.released = 0
        self.has_yielded_last = False

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
        self.requests.append(request)
        try:
            for output in self._outputs:
                self.has_yielded_last = output is self._outputs[-1]
                yield output
            await asyncio.Event().wait()
        finally:
            self.released += 1

    async def prefetch(self, base: str, digest: str, rank: int, hold_s: float) -> None:
        pass


class DeadlineGateway:
    """A gateway in front of an engine that hangs."""

    def __init__(self, home: Path, catalog: Catalog) -> None:
        self.home, self.catalog = home, catalog
        catalog.create_tenant("acme")
        self.key = issue_key(catalog, "acme")

    async def send(
        self, engine: HangingEngine, *, within_s: float | None = None, timeout_s: float = 600, has_body: bool = True
    ) -> tuple[int, bytes]:
        """Send a request. Without a body, its client sends half of it and then nothing. Return status and body."""
        settings = load_settings(home=self.home, base="base", serve={"request_timeout_s": timeout_s})
        app = build_gateway(settings, self.catalog, ObjectStore.open(settings), engine)
        content = orjson.dumps({"model": "base", "prompt": "hello"})
        parts = [{"type": "http.request", "body": content if has_body else content[:9], "more_body": not has_body}]
        sent: list[Message] = []

        async def receive() -> Any:
            if not parts:
                await asyncio.Event().wait()
            return parts.pop()

        async def send(message: Message) -> None:
            sent.append(message)

        headers = [(b"authorization", f"Bearer {self.key}".encode())]
        if within_s is not None:
            headers.append((b"x-looper-within-s", str(within_s).encode()))
        path = "/v1/completions"
        scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
        scope |= {"headers": headers, "asgi": {"version": "3.0", "spec_version": "2.4"}, "root_path": ""}
        async with asyncio.timeout(60):
            await app(scope, receive, send)
        return sent[0]["status"], b"".join(message["body"] for message in sent[1:])


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeadlineGateway]:
    home = tmp_path_factory.mktemp("deadlines")
    with closing(Catalog.open(load_settings(home=home))) as catalog:
        yield DeadlineGateway(home, catalog)


def code_of(body: bytes) -> str:
    return str(orjson.loads(body)["error"]["code"])


@pytest.mark.parametrize("has_body", [False, True])
def test_a_request_that_no_engine_has_begun_in_time_is_refused(gateway: DeadlineGateway, has_body: bool) -> None:
    """It waits for its body, or for its adapter or for admission: an engine says nothing until then."""
    engine = HangingEngine()
    status, body = asyncio.run(gateway.send(engine, within_s=0.3, has_body=has_body))
    assert (status, code_of(body)) == (503, "overloaded")
    assert engine.released == len(engine.requests) <= has_body


def test_an_engine_is_told_what_is_left_of_the_time(gateway: DeadlineGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, get_quota = HangingEngine(FullResponse(200, b"{}")), Catalog.get_quota

    def get_quota_slowly(catalog: Catalog, tenant: str) -> Any:
        Event().wait(0.3)
        return get_quota(catalog, tenant)

    monkeypatch.setattr(Catalog, "get_quota", get_quota_slowly)
    assert asyncio.run(gateway.send(engine, within_s=60))[0] == 200
    max_wait_s = engine.requests[0].max_wait_s
    assert max_wait_s is not None
    assert max_wait_s <= 59.7


def test_the_time_that_a_client_allows_ends_when_an_engine_begins() -> None:
    async def begin_and_go_on() -> None:
        deadline = RequestDeadline(time.perf_counter(), 0.05, 600)
        async with deadline.enforced():
            deadline.begin()
            await asyncio.sleep(0.1)
        async with deadline.enforced():
            await asyncio.sleep(0)

    asyncio.run(begin_and_go_on())


@pytest.mark.parametrize("has_body", [False, True])
def test_a_request_has_a_total_time(gateway: DeadlineGateway, has_body: bool) -> None:
    engine = HangingEngine(ADMITTED)
    status, body = asyncio.run(gateway.send(engine, timeout_s=0.3, has_body=has_body))
    assert (status, code_of(body)) == (503, "request_timeout")
    assert engine.released == len(engine.requests) <= has_body


def test_a_stream_that_takes_too_long_ends_with_an_error_event(
    gateway: DeadlineGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = HangingEngine(ADMITTED, CHUNK)
    monkeypatch.setattr(RequestDeadline, "remaining_s", property(lambda _: 0.1 if engine.has_yielded_last else 600))
    status, body = asyncio.run(gateway.send(engine))
    assert status == 200
    first, error, done = body.decode().split("\n\n", 2)
    assert first == "data: {}"
    assert code_of(error.removeprefix("data: ").encode()) == "request_timeout"
    assert done == "data: [DONE]\n\n"
    assert engine.released == 1
