"""Asking a model over HTTP: a real server that answers, and fails in every way that servers do."""

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

from looper.jobs.synthesis.llm import request as ask
from looper.jobs.synthesis.llm.endpoint import ask_endpoint
from looper.jobs.synthesis.llm.model_factory import open_model
from looper.platform.domain.errors import InvalidInput
from looper.platform.settings import ModelSettings, load_settings

KEY = "sk-very-secret"


@dataclass
class Server:
    """Does what a request's record names, and counts."""

    url: str = ""
    tries: Counter[str] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    arrived: list[float] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    async def answer(self, request: Request) -> Response:
        self.arrived.append(time.monotonic())
        body = await request.json()
        what = body["messages"][1]["content"]
        self.tries[what] += 1
        self.bodies.append(body)
        self.keys.add(request.headers.get("authorization"))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await self._do(what, self.tries[what])
        finally:
            self.at_once -= 1

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
            case "busy" | "busy till tomorrow":
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


def asked(settings: ModelSettings, *records: str) -> list[str | None]:
    return ask_endpoint([ask.LLMRequest("Say it again.", record, max_tokens=7) for record in records], settings)


def test_answers_come_in_the_order_of_the_questions(server: Server) -> None:
    assert asked(settings(server.url), "slow", "one", "two") == ["slow", "one", "two"]
    assert server.keys == {f"Bearer {KEY}"}
    for record in ("slow", "one", "two"):  # they arrive in any order
        assert {
            "model": "m",
            "messages": [{"role": "system", "content": "Say it again."}, {"role": "user", "content": record}],
            "max_tokens": 7,
            "temperature": 0.0,
            "seed": 0,
        } in server.bodies


def test_no_question_asks_nobody() -> None:
    assert asked(settings("http://127.0.0.1:1/v1")) == []


def test_without_a_key_none_is_sent(server: Server) -> None:
    assert asked(settings(f"{server.url}/", api_key=None), "one") == ["one"]
    assert server.keys == {None}


def test_no_more_are_asked_at_once_than_agreed(server: Server) -> None:
    assert asked(settings(server.url, max_concurrency=3), *["slow"] * 10) == ["slow"] * 10
    assert server.most_at_once == 3


def test_what_was_refused_for_the_moment_is_tried_again_when_the_server_says(server: Server) -> None:
    assert asked(settings(server.url), "busy once") == ["busy once"]
    assert server.arrived[1] - server.arrived[0] >= 1


def test_what_broke_is_tried_again(server: Server) -> None:
    assert asked(settings(server.url), "broken twice") == ["broken twice"]


def test_what_takes_too_long_is_tried_again(server: Server) -> None:
    assert asked(settings(server.url, timeout_s=2), "slow once") == ["slow once"]


def test_after_the_last_try_there_is_no_answer_and_the_others_have_theirs(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        answers = asked(settings(server.url, timeout_s=1.5, max_attempts=2), "never", "busy", "one")
    assert answers == [None, None, "one"]
    assert server.tries == {"never": 2, "busy": 2, "one": 1}
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("model endpoint 127.0.0.1: 2 of 3 requests without an answer: ")
    assert "1 not within 1.5 s" in warning
    assert "1 answered 429" in warning
    assert KEY not in caplog.text


@pytest.mark.parametrize("what", ["refused", "elsewhere", "page", "deep", "empty", "list", "silent"])
def test_what_another_try_would_not_change_is_not_tried_again(
    server: Server, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        assert asked(settings(server.url), what, "one") == [None, "one"]
    assert server.tries[what] == 1
    assert KEY not in caplog.text


@pytest.mark.parametrize("what", ["never", "busy till tomorrow"])
def test_all_together_end_in_time(server: Server, what: str) -> None:
    began = time.monotonic()
    assert asked(settings(server.url, deadline_s=1, max_concurrency=2), "one", *[what] * 6) == ["one", *[None] * 6]
    assert time.monotonic() - began < 5


def test_a_server_that_hangs_up_has_no_answer() -> None:
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
        assert asked(settings(f"http://127.0.0.1:{listening.getsockname()[1]}/v1"), "one") == [None]
        assert hung_up["times"] == 3
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_byte_now_and_then_is_no_answer_in_time() -> None:
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
        assert asked(settings(url, timeout_s=0.5, max_attempts=1), "one") == [None]
        assert time.monotonic() - began < 5
        thread.join()


def test_where_nobody_listens_there_is_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    assert asked(settings(url), "one", "two") == [None, None]


def test_the_settings_name_the_endpoint(server: Server, tmp_path: Any) -> None:
    model = open_model(settings(server.url), tmp_path)
    assert model.name == "m"
    assert model.ask([ask.LLMRequest("Say it again.", "one")]) == ["one"]
    with pytest.raises(InvalidInput, match="needs the model's name"):
        open_model(settings(server.url, name=None), tmp_path)


def test_the_key_reaches_other_processes_and_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPER_SYNTHESIS__MODEL__API_KEY", KEY)
    loaded = load_settings()
    assert KEY not in repr(loaded) + str(loaded) + repr(loaded.model_dump())
    told = load_settings(**json.loads(loaded.model_dump_json())).synthesis.model.api_key
    assert told is not None
    assert told.get_secret_value() == KEY
    assert json.loads(ModelSettings().model_dump_json())["api_key"] is None


def test_a_mistake_beside_the_key_does_not_show_it() -> None:
    with pytest.raises(InvalidInput) as mistake:
        load_settings(synthesis={"model": {"api_key": [KEY]}})
    assert "synthesis.model.api_key" in str(mistake.value)
    assert KEY not in str(mistake.value) + str(mistake.value.__cause__)


def test_an_endpoint_is_an_address_of_the_web() -> None:
    with pytest.raises(InvalidInput, match=r"synthesis\.model\.endpoint"):
        load_settings(synthesis={"model": {"endpoint": "file:///etc"}})
