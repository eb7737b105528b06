"""Requests to a model over HTTP: a real server that responds, and fails in the ways in which servers fail."""

import asyncio
import json
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request, Response

from looper.jobs.synthesis.llm.endpoint import generate_with_endpoint
from looper.jobs.synthesis.llm.model_factory import open_model
from looper.jobs.synthesis.llm.request import LLMRequest
from looper.platform.domain.errors import InvalidInput
from looper.platform.settings import ModelSettings, load_settings

KEY = "sk-very-secret"


@dataclass
class Server:
    """Behaves as the record of a request says, and counts requests."""

    url: str = ""
    tries: Counter[str] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    arrived: list[float] = field(default_factory=list)
    concurrent: int = 0
    max_concurrent: int = 0

    async def answer(self, request: Request) -> Response:
        self.arrived.append(time.monotonic())
        body = await request.json()
        what = body["messages"][1]["content"]
        self.tries[what] += 1
        self.bodies.append(body)
        self.keys.add(request.headers.get("authorization"))
        self.concurrent += 1
        self.max_concurrent = max(self.max_concurrent, self.concurrent)
        try:
            return await self._do(what, self.tries[what])
        finally:
            self.concurrent -= 1

    async def _do(self, what: str, attempt: int) -> Response:
        match what:
            case "never":
                await asyncio.sleep(60)
            case "slow once" if attempt == 1:
                await asyncio.sleep(60)
            case "slow":
                await asyncio.sleep(0.1)
            case "busy once" if attempt == 1:
                return Response(status_code=429, headers={"retry-after": "1"})
            case "broken twice" if attempt <= 2:
                return Response(status_code=502)
            case "busy" | "busy until tomorrow":
                return Response(status_code=429, headers={"retry-after": "86400"} if what != "busy" else {})
            case "refused":
                return Response(status_code=401, content=KEY)
            case "elsewhere":
                return Response(status_code=307, headers={"location": "https://elsewhere.example/v1"})
            case "page":
                return Response("<html>Welcome!</html>")
            case "deep":
                return Response("[" * 100_000)
            case "empty" | "list" | "silent":
                return Response(json.dumps({"empty": {}, "list": [], "silent": _completion(None)}[what]))
        return Response(json.dumps(_completion(what)))


def _completion(content: str | None) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": content}}]}


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    app = FastAPI()
    app.add_api_route("/v1/chat/completions", made.answer, methods=["POST"], response_model=None)
    listening = socket.create_server(("127.0.0.1", 0))
    made.url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    web = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=web.run, args=([listening],))
    thread.start()
    try:
        yield made
    finally:
        web.should_exit = True
        thread.join()
        listening.close()


def settings(url: str, **changes: Any) -> ModelSettings:
    return ModelSettings.model_validate({"endpoint": url, "name": "m", "api_key": KEY, "max_attempts": 3, **changes})


def generate(settings: ModelSettings, *records: str) -> list[str | None]:
    return generate_with_endpoint([LLMRequest("Say it again.", record, max_tokens=7) for record in records], settings)


def test_responses_have_the_order_of_the_requests(server: Server) -> None:
    assert generate(settings(server.url), "slow", "one", "two") == ["slow", "one", "two"]
    assert server.keys == {f"Bearer {KEY}"}
    for record in ("slow", "one", "two"):  # they arrive in any order
        assert {
            "model": "m",
            "messages": [{"role": "system", "content": "Say it again."}, {"role": "user", "content": record}],
            "max_tokens": 7,
            "temperature": 0.0,
            "seed": 0,
        } in server.bodies


def test_without_requests_no_connection_is_made() -> None:
    assert generate(settings("http://127.0.0.1:1/v1")) == []


def test_without_a_key_no_authorization_header_is_sent(server: Server) -> None:
    assert generate(settings(f"{server.url}/", api_key=None), "one") == ["one"]
    assert server.keys == {None}


def test_max_concurrency_limits_simultaneous_requests(server: Server) -> None:
    assert generate(settings(server.url, max_concurrency=3), *["slow"] * 10) == ["slow"] * 10
    assert server.max_concurrent == 3


def test_a_429_is_retried_after_the_requested_pause(server: Server) -> None:
    assert generate(settings(server.url), "busy once") == ["busy once"]
    assert server.arrived[1] - server.arrived[0] >= 1


def test_a_server_error_is_retried(server: Server) -> None:
    assert generate(settings(server.url), "broken twice") == ["broken twice"]


def test_a_timeout_is_retried(server: Server) -> None:
    assert generate(settings(server.url, timeout_s=2), "slow once") == ["slow once"]


def test_after_the_last_attempt_only_the_failed_requests_have_no_response(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        answers = generate(settings(server.url, timeout_s=1.5, max_attempts=2), "never", "busy", "one")
    assert answers == [None, None, "one"]
    assert server.tries == {"never": 2, "busy": 2, "one": 1}
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("The model endpoint 127.0.0.1 gave no response to 2 of 3 requests: ")
    assert "1 timed out after 1.5 s" in warning
    assert "1 got status 429" in warning
    assert KEY not in caplog.text


@pytest.mark.parametrize("what", ["refused", "elsewhere", "page", "deep", "empty", "list", "silent"])
def test_permanent_failures_are_not_retried(server: Server, what: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        assert generate(settings(server.url), what, "one") == [None, "one"]
    assert server.tries[what] == 1
    assert KEY not in caplog.text


@pytest.mark.parametrize("what", ["never", "busy until tomorrow"])
def test_the_deadline_holds_for_all_requests_together(server: Server, what: str) -> None:
    began = time.monotonic()
    assert generate(settings(server.url, deadline_s=1, max_concurrency=2), "one", *[what] * 6) == ["one", *[None] * 6]
    assert time.monotonic() - began < 5


def test_a_closed_connection_gives_no_response() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        hung_up = Counter[str]()

        def hang_up() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                hung_up["times"] += 1
                connection.close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        assert generate(settings(f"http://127.0.0.1:{listening.getsockname()[1]}/v1"), "one") == [None]
        assert hung_up["times"] == 3
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_server_that_sends_single_bytes_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            connection, _ = listening.accept()
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
            try:
                while True:
                    connection.sendall(b" ")
                    time.sleep(0.1)
            except OSError:
                connection.close()

        thread = threading.Thread(target=drip)
        thread.start()
        began = time.monotonic()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        assert generate(settings(url, timeout_s=0.5, max_attempts=1), "one") == [None]
        assert time.monotonic() - began < 5
        thread.join()


def test_a_refused_connection_gives_no_response() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
    assert generate(settings(url), "one", "two") == [None, None]


def test_open_model_uses_the_endpoint_of_the_settings(server: Server, tmp_path: Any) -> None:
    model = open_model(settings(server.url), None)
    assert model.name == "m"
    assert model.generate([LLMRequest("Say it again.", "one")]) == ["one"]
    with pytest.raises(InvalidInput, match="set LOOPER_SYNTHESIS__MODEL__NAME"):
        open_model(settings(server.url, name=None), None)


def test_the_api_key_is_serialized_but_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPER_SYNTHESIS__MODEL__API_KEY", KEY)
    loaded = load_settings()
    assert KEY not in repr(loaded) + str(loaded) + repr(loaded.model_dump())
    reloaded = load_settings(**json.loads(loaded.model_dump_json())).synthesis.model.api_key
    assert reloaded is not None
    assert reloaded.get_secret_value() == KEY
    assert json.loads(ModelSettings().model_dump_json())["api_key"] is None


def test_an_invalid_api_key_is_not_quoted_in_the_error() -> None:
    with pytest.raises(InvalidInput) as error:
        load_settings(synthesis={"model": {"api_key": [KEY]}})
    assert "synthesis.model.api_key" in str(error.value)
    assert KEY not in str(error.value) + str(error.value.__cause__)


def test_an_endpoint_must_be_an_http_url() -> None:
    with pytest.raises(InvalidInput, match=r"synthesis\.model\.endpoint"):
        load_settings(synthesis={"model": {"endpoint": "file:///etc"}})
