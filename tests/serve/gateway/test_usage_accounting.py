"""A request is charged for the tokens that the engine has processed, however the request ends."""

import asyncio
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import orjson
import pytest
from fastapi import FastAPI
from starlette.types import Message

from looper.platform.catalog import Catalog, Quota
from looper.platform.domain.names import InstanceName
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import load_settings
from looper.platform.tenancy import issue_key
from looper.serve.engine.token_meter import REPORT_INTERVAL_TOKENS
from looper.serve.error_responses import error_response
from looper.serve.gateway.app import build_gateway
from looper.serve.protocol import EngineOutput, EngineRequest, FullResponse, StreamChunk, TokenCounts
from tests.serve.live import HELLO, LiveServer, send_chat

EVENT = "data: {}\n\n"
BODY = orjson.dumps({"model": "base", "prompt": "hello " * 60})


class ScriptedEngine:
    """Responds to the first request with a script, and then hangs, unless the script ends with an exception."""

    def __init__(self, script: list[EngineOutput | Exception]) -> None:
        self._script: list[EngineOutput | Exception] | None = script
        self.is_finished = asyncio.Event()

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
        script, self._script = self._script, None
        if script is None:
            yield FullResponse(200, b"{}")
            return
        for output in script:
            if isinstance(output, Exception):
                raise output
            yield output
        self.is_finished.set()
        await asyncio.Event().wait()

    async def prefetch(self, base: str, digest: str, rank: int, hold_s: float) -> None:
        raise AssertionError("no request is for a version")


class RateLimitedGateway:
    """A gateway whose only tenant may use 60 tokens per minute, on a clock that stands still."""

    def __init__(self, home: Path, catalog: Catalog) -> None:
        self._settings, self._catalog = load_settings(home=home, base="base"), catalog
        catalog.create_tenant("acme")
        catalog.set_quota("acme", Quota(tokens_per_minute=60))
        self._key = issue_key(catalog, "acme")

    def app(self, engine: ScriptedEngine) -> FastAPI:
        return build_gateway(self._settings, self._catalog, ObjectStore.open(self._settings), engine)

    async def send(self, app: FastAPI, *, blocked: asyncio.Event | None = None) -> dict[str, Any]:
        """Return the start of the response. With ``blocked``, the client sets it and reads nothing of the response."""
        messages: list[Message] = []
        body = [{"type": "http.request", "body": BODY, "more_body": False}]

        async def receive() -> Message:
            if not body:
                await asyncio.Event().wait()
            return body.pop()

        async def receive_message(message: Message) -> None:
            messages.append(message)
            if blocked:
                blocked.set()
                await asyncio.Event().wait()

        headers = [(b"authorization", f"Bearer {self._key}".encode())]
        path = "/v1/completions"
        scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
        scope |= {"headers": headers, "asgi": {"version": "3.0", "spec_version": "2.4"}, "root_path": ""}
        await app(scope, receive, receive_message)
        return messages[0]

    async def charged_tokens(self, app: FastAPI) -> int:
        """Return how many tokens the earlier requests were charged. It must be more than 60 to show."""
        response = await self.send(app)
        assert response["status"] == 429
        return int(dict(response["headers"])[b"retry-after"]) - 1 + 60


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RateLimitedGateway]:
    monkeypatch.setattr("looper.serve.gateway.openai_app.time", SimpleNamespace(monotonic=lambda: 0.0))
    with closing(Catalog.open(load_settings(home=tmp_path))) as catalog:
        yield RateLimitedGateway(tmp_path, catalog)


@pytest.mark.parametrize(
    ("outputs", "charged"),
    [
        pytest.param([], len(BODY) // 4, id="before any output"),
        pytest.param([StreamChunk("", TokenCounts(65, 0))], 65, id="during prefill"),
        pytest.param(
            [StreamChunk("", TokenCounts(65, 0)), StreamChunk("", TokenCounts(65, 32))], 97, id="not streamed"
        ),
        pytest.param(
            [StreamChunk(EVENT, TokenCounts(65, 1)), StreamChunk(EVENT, TokenCounts(65, 9))],
            74,
            id="streamed",
        ),
        pytest.param(
            [StreamChunk(EVENT, TokenCounts(65, 1)), StreamChunk("", TokenCounts(65, 17))],
            82,
            id="between events",
        ),
    ],
)
def test_a_request_is_charged_if_its_client_disconnects(
    gateway: RateLimitedGateway, outputs: list[EngineOutput | Exception], charged: int
) -> None:
    async def disconnect() -> int:
        engine = ScriptedEngine(outputs)
        app = gateway.app(engine)
        task = asyncio.create_task(gateway.send(app))
        await engine.is_finished.wait()
        task.cancel()
        await asyncio.wait([task])
        return await gateway.charged_tokens(app)

    assert asyncio.run(disconnect()) == charged


def test_a_stream_is_charged_if_its_client_reads_nothing_and_disconnects(gateway: RateLimitedGateway) -> None:
    async def disconnect() -> int:
        app = gateway.app(ScriptedEngine([StreamChunk(EVENT, TokenCounts(65, 8))]))
        blocked = asyncio.Event()
        task = asyncio.create_task(gateway.send(app, blocked=blocked))
        await blocked.wait()
        task.cancel()
        await asyncio.wait([task])
        return await gateway.charged_tokens(app)

    assert asyncio.run(disconnect()) == 73


@pytest.mark.parametrize(
    ("outputs", "status", "charged"),
    [
        pytest.param([FullResponse(200, b"{}", tokens=TokenCounts(65, 7))], 200, 72, id="full response"),
        pytest.param([StreamChunk(EVENT, TokenCounts(65, 1)), RuntimeError("died")], 200, 66, id="interrupted"),
        pytest.param([RuntimeError("died")], 500, len(BODY) // 4, id="failed before any output"),
        pytest.param(
            [StreamChunk(EVENT, TokenCounts(65, 1)), FullResponse(500, b"{}", tokens=TokenCounts(65, 3))],
            200,
            68,
            id="failed",
        ),
        pytest.param(
            [StreamChunk("", TokenCounts(70, 40)), StreamChunk(EVENT, TokenCounts(70, 1))],
            200,
            110,
            id="restarted on another replica",
        ),
    ],
)
def test_a_request_is_charged_if_it_ends_by_itself(
    gateway: RateLimitedGateway, outputs: list[EngineOutput | Exception], status: int, charged: int
) -> None:
    async def wait() -> tuple[int, int]:
        app = gateway.app(ScriptedEngine([*outputs, RuntimeError("the end")]))
        return (await gateway.send(app))["status"], await gateway.charged_tokens(app)

    assert asyncio.run(wait()) == (status, charged)


def test_a_request_that_the_engine_refuses_costs_no_tokens(gateway: RateLimitedGateway) -> None:
    async def send_twice() -> list[int]:
        app = gateway.app(ScriptedEngine([error_response(400, "refused")]))
        return [(await gateway.send(app))["status"] for _ in range(2)]

    assert asyncio.run(send_twice()) == [400, 200]


def read_token_metrics(live: LiveServer) -> tuple[int, int]:
    """Return the prompt and generated tokens of the base model since the server started."""
    text = live.read_metrics()
    read, generated = (
        sum(float(value) for value in re.findall(rf'tokens_total{{channel="base",.*kind="{kind}"}} (\S+)', text))
        for kind in KINDS
    )
    return int(read), int(generated)


KINDS = ("read", "generated")


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"n": 3, "temperature": 1},
        {"prompt": ["hello", "a longer one"], "n": 2, "temperature": 1},
        {"prompt": "hello", "stop": [" "], "temperature": 2, "seed": 1},
    ],
)
def test_metrics_count_the_tokens_of_vllms_usage(live: LiveServer, more: dict[str, Any]) -> None:
    client = live.tenant("counts")
    body: Any = {"model": "tiny", "prompt": "Please book the blue room.", "max_tokens": 24, "seed": 7, **more}
    before = read_token_metrics(live)
    usage = client.completions.create(**body).usage
    full = read_token_metrics(live)
    for _ in client.completions.create(**body, stream=True):
        pass
    streamed = read_token_metrics(live)
    assert usage is not None
    expected = (usage.prompt_tokens, usage.completion_tokens)
    assert (full[0] - before[0], full[1] - before[1]) == expected
    assert (streamed[0] - full[0], streamed[1] - full[1]) == expected


def test_closed_streams_are_charged_until_the_rate_limit_is_reached(live: LiveServer) -> None:
    client = live.tenant("closes")
    live.publish(InstanceName("closes", "agent"), 120)
    send_chat(client, "closes/agent")
    live.catalog.set_quota("closes", Quota(tokens_per_minute=300))
    endless: Any = {"model": "closes/agent", "messages": HELLO, "max_tokens": 1900, "extra_body": {"ignore_eos": True}}

    def close_streams() -> None:
        for _ in range(10):
            with client.chat.completions.create(**endless, stream=True) as stream:
                for _ in zip(range(60), stream, strict=False):
                    pass

    with pytest.raises(openai.RateLimitError, match="300 tokens per minute"):
        close_streams()


def test_a_full_response_is_charged_if_its_client_times_out(live: LiveServer) -> None:
    client, before = live.tenant("gives-up"), read_token_metrics(live)
    with pytest.raises(openai.APITimeoutError):
        # Thousands of tokens: a fast machine generates one sequence of 1900 within seconds.
        client.with_options(timeout=1).completions.create(
            model="tiny", prompt="hello", n=4, temperature=1, max_tokens=1900, extra_body={"ignore_eos": True}
        )
    after = read_token_metrics(live)
    assert after[0] > before[0]
    assert after[1] - before[1] >= REPORT_INTERVAL_TOKENS
