"""The client sends a request again when that helps and does no harm, and not for ever."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from looper.platform.api.headers import API_VERSION, API_VERSION_HEADER
from looper.platform.client import Client
from looper.platform.client.retries import MAX_RETRY_WAIT_S, RETRY_PAUSE_S
from looper.platform.domain.errors import CorruptAdapter, LooperError, Overloaded, RateLimited, StoreUnavailable
from tests.platform.conftest import free_port

OK, HANGS_UP = (200, {}, b"[]"), (0, {}, b"")
RATE_LIMITED = (429, {"retry-after": "7"}, b'{"error": {"message": "slow", "code": "rate_limit_exceeded"}}')
OVERLOADED = (503, {"retry-after": "4"}, b'{"error": {"message": "full", "code": "overloaded"}}')
STORE_DOWN = (503, {}, b'{"error": {"message": "down", "code": "store_unavailable"}}')
BROKEN = (500, {}, b'{"error": {"message": "a bug", "code": "internal_error"}}')

Answer = tuple[int, dict[str, str], bytes]


class Script:
    """A server that gives the answers of a list, one per request."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.requests: list[str] = []
        self.pauses: list[float] = []
        script = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                script.requests.append(self.command)
                status, headers, body = script.answers.pop(0)
                if status == 0:
                    self.close_connection = True
                    return
                self.send_response(status)
                always = {"content-length": str(len(body)), API_VERSION_HEADER: API_VERSION}
                for name, value in (always | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                """Print nothing."""

        for method in ("GET", "POST", "PUT", "DELETE"):
            setattr(Handler, f"do_{method}", Handler.answer)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    script = Script()
    monkeypatch.setattr("looper.platform.client.retries.time.sleep", script.pauses.append)
    thread = threading.Thread(target=script.server.serve_forever)
    thread.start()
    yield script
    script.server.shutdown()
    thread.join()
    script.server.server_close()


def client(script: Script, max_retries: int = 3) -> Client:
    return Client(f"http://127.0.0.1:{script.server.server_port}", "looper_any", max_retries=max_retries)


@pytest.mark.parametrize("failure", [RATE_LIMITED, OVERLOADED, STORE_DOWN, HANGS_UP])
def test_reading_is_tried_again(script: Script, failure: Answer) -> None:
    script.answers = [failure, failure, OK]
    with client(script) as looper:
        assert list(looper.instances()) == []
    assert len(script.requests) == 3
    asked = float(failure[1].get("retry-after", 0))
    for attempt, pause_s in enumerate(script.pauses):
        assert max(asked, RETRY_PAUSE_S * 2**attempt / 2) <= pause_s <= max(asked, RETRY_PAUSE_S * 2**attempt)


@pytest.mark.parametrize(
    ("failure", "error"), [(RATE_LIMITED, RateLimited), (OVERLOADED, Overloaded), (STORE_DOWN, StoreUnavailable)]
)
def test_after_the_last_retry_the_error_is_the_servers(
    script: Script, failure: Answer, error: type[LooperError]
) -> None:
    for max_retries in (0, 3):
        script.answers, script.requests = [failure] * 9, []
        with client(script, max_retries) as looper, pytest.raises(error) as raised:
            looper.instances()
        assert len(script.requests) == max_retries + 1
        assert type(raised.value) is error
        if isinstance(raised.value, Overloaded):
            assert raised.value.retry_after_s == float(failure[1]["retry-after"])


@pytest.mark.parametrize(
    ("call", "failure", "requests"),
    [
        (lambda looper: looper.revoke("desk", "0" * 64), OVERLOADED, 1),
        (lambda looper: looper.revoke("desk", "0" * 64), HANGS_UP, 1),
        (lambda looper: looper.drop("desk", "canary"), HANGS_UP, 1),
        (lambda looper: looper.consolidate(["desk"]), HANGS_UP, 1),
        (lambda looper: looper.rollback("desk"), OVERLOADED, 1),
        (lambda looper: looper.consolidate(["desk"]), RATE_LIMITED, 4),
        (lambda looper: looper.promote("desk", "0" * 64), OVERLOADED, 4),
        (lambda looper: looper.promote("desk", "0" * 64, expected="1" * 64), HANGS_UP, 1),
        (lambda looper: looper.ingest("desk", __file__), HANGS_UP, 4),
        (lambda looper: looper.instances(), BROKEN, 1),
    ],
)
def test_what_may_have_been_done_is_not_done_twice(
    script: Script, call: Callable[[Client], object], failure: Answer, requests: int
) -> None:
    script.answers = [failure] * 9
    with client(script) as looper, pytest.raises(LooperError) as raised:
        call(looper)
    assert len(script.requests) == requests
    assert not isinstance(raised.value, CorruptAdapter)


@pytest.mark.parametrize(("seconds", "requests"), [(MAX_RETRY_WAIT_S, 4), (MAX_RETRY_WAIT_S + 1, 1)])
def test_the_client_waits_for_so_long_and_no_longer(script: Script, seconds: float, requests: int) -> None:
    script.answers = [(429, {"retry-after": f"{seconds:.0f}"}, b"")] * 9
    with client(script) as looper, pytest.raises(RateLimited) as raised:
        looper.instances()
    assert (len(script.requests), raised.value.retry_after_s) == (requests, seconds)


def test_without_a_connection_every_request_is_tried_again(script: Script, tmp_path: Path) -> None:
    with Client(f"http://127.0.0.1:{free_port()}", "looper_any") as looper, pytest.raises(StoreUnavailable):
        looper.cancel("0")
    assert len(script.pauses) == 3
