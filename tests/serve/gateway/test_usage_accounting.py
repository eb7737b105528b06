"""What the engine has done for a request is paid, whatever way the request ends."""

import asyncio
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
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
from looper.serve.engine.token_meter import STRIDE
from looper.serve.gateway.app import gateway
from looper.serve.protocol import EngineRequest, FullResponse, Reply, Said, Tokens, error
from tests.serve.live import HELLO, Live, ask

EVENT = "data: {}\n\n"
BODY = orjson.dumps({"model": "base", "prompt": "hello " * 60})


class Scripted:
    """Says to the first request what it was given, and then nothing more, or raises what comes last."""

    def __init__(self, script: list[Reply | Exception]) -> None:
        self._script: list[Reply | Exception] | None = script
        self.said = asyncio.Event()

    async def answer(self, ask: EngineRequest) -> AsyncGenerator[Reply, None]:
        script, self._script = self._script, None
        if script is None:
            yield FullResponse(200, b"{}")
            return
        for reply in script:
            if isinstance(reply, Exception):
                raise reply
            yield reply
        self.said.set()
        await asyncio.Event().wait()

    async def prefetch(self, digest: str, rank: int, hold_s: float) -> None:
        raise AssertionError("nobody asks for a version")


class Paying:
    """A gateway whose one tenant may use 60 tokens in a minute, on a clock that stands still."""

    def __init__(self, home: Path, catalog: Catalog) -> None:
        self._settings, self._catalog = load_settings(home=home, base="base"), catalog
        catalog.create_tenant("acme")
        catalog.set_quota("acme", Quota(tokens_per_minute=60))
        self._key = issue_key(catalog, "acme")

    def app(self, engine: Scripted) -> FastAPI:
        return gateway(self._settings, self._catalog, ObjectStore.open(self._settings), engine)

    async def ask(self, app: FastAPI, *, stuck: asyncio.Event | None = None) -> dict[str, Any]:
        """The head of the answer. A client that is ``stuck`` as soon as anything comes takes nothing of it."""
        messages: list[Message] = []
        body = [{"type": "http.request", "body": BODY, "more_body": False}]

        async def receive() -> Message:
            if not body:
                await asyncio.Event().wait()
            return body.pop()

        async def send(message: Message) -> None:
            messages.append(message)
            if stuck:
                stuck.set()
                await asyncio.Event().wait()

        headers = [(b"authorization", f"Bearer {self._key}".encode())]
        path = "/v1/completions"
        scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
        scope |= {"headers": headers, "asgi": {"version": "3.0", "spec_version": "2.4"}, "root_path": ""}
        await app(scope, receive, send)
        return messages[0]

    async def paid(self, app: FastAPI) -> int:
        """How many tokens the requests have cost that were asked before; below 60 that does not show."""
        answer = await self.ask(app)
        assert answer["status"] == 429
        return int(dict(answer["headers"])[b"retry-after"]) - 1 + 60


@pytest.fixture
def paying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Paying]:
    monkeypatch.setattr("looper.serve.gateway.app.time", SimpleNamespace(monotonic=lambda: 0.0))
    with closing(Catalog.open(load_settings(home=tmp_path))) as catalog:
        yield Paying(tmp_path, catalog)


@pytest.mark.parametrize(
    ("said", "paid"),
    [
        pytest.param([], len(BODY) // 4, id="before anything came"),
        pytest.param([Said("", Tokens(65, 0))], 65, id="while its prompt is read"),
        pytest.param([Said("", Tokens(65, 0)), Said("", Tokens(65, 32))], 97, id="while it is made whole"),
        pytest.param([Said(EVENT, Tokens(65, 1)), Said(EVENT, Tokens(65, 9))], 74, id="while it is streamed"),
        pytest.param([Said(EVENT, Tokens(65, 1)), Said("", Tokens(65, 17))], 82, id="while nothing can be said"),
    ],
)
def test_an_answer_is_paid_whose_client_goes_away(paying: Paying, said: list[Reply | Exception], paid: int) -> None:
    async def leave() -> int:
        engine = Scripted(said)
        app = paying.app(engine)
        asked = asyncio.create_task(paying.ask(app))
        await engine.said.wait()
        asked.cancel()
        await asyncio.wait([asked])
        return await paying.paid(app)

    assert asyncio.run(leave()) == paid


def test_a_stream_is_paid_whose_client_takes_nothing_of_it_and_goes_away(paying: Paying) -> None:
    async def leave() -> int:
        app = paying.app(Scripted([Said(EVENT, Tokens(65, 8))]))
        stuck = asyncio.Event()
        asked = asyncio.create_task(paying.ask(app, stuck=stuck))
        await stuck.wait()
        asked.cancel()
        await asyncio.wait([asked])
        return await paying.paid(app)

    assert asyncio.run(leave()) == 73


@pytest.mark.parametrize(
    ("said", "status", "paid"),
    [
        pytest.param([FullResponse(200, b"{}", tokens=Tokens(65, 7))], 200, 72, id="whole"),
        pytest.param([Said(EVENT, Tokens(65, 1)), RuntimeError("died")], 200, 66, id="broken off"),
        pytest.param([RuntimeError("died")], 500, len(BODY) // 4, id="failed at once"),
        pytest.param(
            [Said(EVENT, Tokens(65, 1)), FullResponse(500, b"{}", tokens=Tokens(65, 3))], 200, 68, id="failed"
        ),
        pytest.param([Said("", Tokens(70, 40)), Said(EVENT, Tokens(70, 1))], 200, 110, id="begun anew elsewhere"),
    ],
)
def test_an_answer_is_paid_that_ends_by_itself(
    paying: Paying, said: list[Reply | Exception], status: int, paid: int
) -> None:
    async def wait() -> tuple[int, int]:
        app = paying.app(Scripted([*said, RuntimeError("the end")]))
        return (await paying.ask(app))["status"], await paying.paid(app)

    assert asyncio.run(wait()) == (status, paid)


def test_what_the_engine_refuses_costs_no_tokens(paying: Paying) -> None:
    async def ask_twice() -> list[int]:
        app = paying.app(Scripted([error(400, "no")]))
        return [(await paying.ask(app))["status"] for _ in range(2)]

    assert asyncio.run(ask_twice()) == [400, 200]


def counted(live: Live) -> tuple[int, int]:
    """Tokens read and generated by the base model since the server began."""
    text = httpx.get(f"{live.url}/metrics").text
    found = (re.search(rf'looper_tokens_total{{channel="base",kind="{kind}"}} (\S+)', text) for kind in KINDS)
    read, generated = (int(float(one[1])) if one else 0 for one in found)
    return read, generated


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
def test_an_answer_costs_what_vllm_says_whole_and_streamed(live: Live, more: dict[str, Any]) -> None:
    client = live.tenant("counts")
    asked: Any = {"model": "tiny", "prompt": "Please book the blue room.", "max_tokens": 24, "seed": 7, **more}
    before = counted(live)
    usage = client.completions.create(**asked).usage
    whole = counted(live)
    for _ in client.completions.create(**asked, stream=True):
        pass
    streamed = counted(live)
    assert usage is not None
    expected = (usage.prompt_tokens, usage.completion_tokens)
    assert (whole[0] - before[0], whole[1] - before[1]) == expected
    assert (streamed[0] - whole[0], streamed[1] - whole[1]) == expected


def test_streams_that_are_closed_are_paid_and_end_in_a_refusal(live: Live) -> None:
    client = live.tenant("closes")
    live.publish(InstanceName("closes", "agent"), 120)
    ask(client, "closes/agent")
    live.catalog.set_quota("closes", Quota(tokens_per_minute=300))
    endless: Any = {"model": "closes/agent", "messages": HELLO, "max_tokens": 1900, "extra_body": {"ignore_eos": True}}

    def close_some() -> None:
        for _ in range(10):
            with client.chat.completions.create(**endless, stream=True) as stream:
                for _ in zip(range(60), stream, strict=False):
                    pass

    with pytest.raises(openai.RateLimitError, match="300 tokens a minute"):
        close_some()


def test_a_whole_answer_that_its_client_gives_up_is_paid(live: Live) -> None:
    client, before = live.tenant("gives-up"), counted(live)
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=3).completions.create(
            model="tiny", prompt="hello", max_tokens=1900, extra_body={"ignore_eos": True}
        )
    after = counted(live)
    assert after[0] > before[0]
    assert after[1] - before[1] >= STRIDE
