"""Clients that hold connections without asking for anything, over real connections."""

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from looper.serve.deployment import proxy_connections
from looper.serve.deployment.proxy_bodies import BodyLimitMiddleware
from looper.serve.deployment.proxy_connections import MAX_HEAD_BYTES, ProxyConnection
from tests.serve.deployment.test_proxy_bodies import code, connect, head, read_response
from tests.serve.live import LiveServer

TIME_S = 0.3
HUGE_BYTES = 32 * 2**20
GET = b"GET /healthz HTTP/1.1\r\nhost: x\r\n"


class Application:
    """Responds with true, but to /huge with much, and to /wait when it is told to."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.num_running = threading.Semaphore(0)
        self.num_answers = threading.Semaphore(0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/wait":
            self.num_running.release()
            while not self.go_on.is_set() and (await receive())["type"] != "http.disconnect":
                pass
        body = bytes(HUGE_BYTES) if scope["path"] == "/huge" else b"true"
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        self.num_answers.release()


class Proxy:
    """A running HTTP server with bounded connections."""

    def __init__(self, server: uvicorn.Server, address: tuple[str, int], application: Application) -> None:
        self.address, self.application, self._connection = address, application, server.config.http
        self.connections = server.server_state.connections
        self.url = f"http://{address[0]}:{address[1]}/"

    def limit(self, **limits: Any) -> None:
        """Give another limit to what begins from now on."""
        for name, value in limits.items():
            setattr(self._connection, name, value)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    application = Application()
    connection = type("Connection", (ProxyConnection,), {})
    with socket.create_server(("127.0.0.1", 0)) as listener:
        app = BodyLimitMiddleware(application)
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", http=connection))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield Proxy(server, listener.getsockname(), application)
        finally:
            application.go_on.set()
            server.should_exit = True
            thread.join()


def trickle(connection: socket.socket) -> bytes:
    """Send a byte every now and then until the server sends something or closes; return what it sends."""
    for _ in range(1000):
        readable, _, _ = select.select([connection], [], [], TIME_S / 20)
        try:
            if readable:
                return connection.recv(12)
            connection.sendall(b"x")
        except OSError:
            return b""
    raise AssertionError("the server takes one byte after another for ever")


def ask(connection: socket.socket) -> None:
    connection.sendall(GET + b"\r\n")
    assert read_response(connection)[:2] == (200, True)


def test_a_connection_without_a_request_is_closed(proxy: Proxy) -> None:
    proxy.limit(max_head_s=TIME_S)
    with connect(proxy.address) as connection:
        assert connection.recv(1) == b""


@pytest.mark.parametrize("beginning", [b"GET /", GET, GET + b"x: "])
def test_a_head_that_trickles_is_refused(proxy: Proxy, beginning: bytes) -> None:
    with connect(proxy.address) as connection:
        ask(connection)
        ask(connection)
        proxy.limit(max_head_s=TIME_S)
        connection.sendall(beginning)
        assert trickle(connection) == b"HTTP/1.1 408"


def test_a_head_that_stops_arriving_is_refused(proxy: Proxy) -> None:
    with connect(proxy.address) as connection:
        ask(connection)
        proxy.limit(max_head_s=TIME_S)
        connection.sendall(GET)
        status, body, is_closed = read_response(connection)
    assert (status, code(body), is_closed) == (408, "request_too_slow", True)


def test_what_follows_a_complete_response_holds_no_connection(proxy: Proxy) -> None:
    with connect(proxy.address) as connection:
        connection.sendall(head("/v1/completions", "content-length: 100000"))
        assert read_response(connection)[:2] == (200, True)
        proxy.limit(max_head_s=TIME_S)
        assert trickle(connection) == b""


def test_a_request_may_take_longer_than_its_head(proxy: Proxy) -> None:
    with connect(proxy.address) as connection:
        ask(connection)
        proxy.limit(max_head_s=TIME_S)
        connection.sendall(head("/wait", "content-length: 1"))
        assert proxy.application.num_running.acquire(timeout=30)
        readable, _, _ = select.select([connection], [], [], 3 * TIME_S)
        assert not readable
        proxy.application.go_on.set()
        connection.sendall(b"x")
        assert read_response(connection)[:2] == (200, True)


@pytest.mark.parametrize("is_last", [False, True])
def test_a_response_that_nobody_reads_is_dropped(proxy: Proxy, is_last: bool) -> None:
    proxy.limit(max_unread_s=TIME_S)
    request = b"GET /huge HTTP/1.1\r\nhost: x\r\n" + (b"connection: close\r\n" if is_last else b"") + b"\r\n"
    with connect(proxy.address) as connection:
        connection.sendall(request)
        assert proxy.application.num_answers.acquire(timeout=30)
        for _ in range(1000):
            if not proxy.connections:
                break
            threading.Event().wait(TIME_S / 10)
        assert not proxy.connections
        size = 0
        try:
            while part := connection.recv(2**20):
                size += len(part)
        except ConnectionResetError:
            pass
    assert 0 < size < HUGE_BYTES


def test_a_response_that_is_read_slowly_arrives(proxy: Proxy) -> None:
    proxy.limit(max_unread_s=2 * TIME_S)
    with connect(proxy.address) as connection:
        connection.sendall(b"GET /huge HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        size = 0
        while part := connection.recv(4 * 2**20, socket.MSG_WAITALL):
            size += len(part)
            if size < HUGE_BYTES / 2:  # for several times as long as a client may read nothing
                threading.Event().wait(TIME_S / 2)
    assert size > HUGE_BYTES


@pytest.mark.parametrize("separator", [b"y", b"\r\nx: "])
def test_a_head_at_the_limit_passes_and_one_past_it_does_not(proxy: Proxy, separator: bytes) -> None:
    for size in (MAX_HEAD_BYTES, MAX_HEAD_BYTES + 1, 10 * 2**20):
        filling = (b"x: " + (b"y" * 2000 + separator) * (size // 2000 + 1))[: size - len(GET)]
        with connect(proxy.address) as connection:
            ask(connection)
            try:
                for at in range(0, size, 2**14):  # only a head that comes in parts is ever incomplete
                    connection.sendall((GET + filling)[at : at + 2**14])
                if size == MAX_HEAD_BYTES:
                    connection.sendall(b"\r\n\r\n")
            except OSError:
                assert size > MAX_HEAD_BYTES
            status, body, *_ = read_response(connection) if size < 2**20 else (431, None)
        if size == MAX_HEAD_BYTES:
            assert (status, body) == (200, True)
        elif body:
            assert (status, code(body)) == (431, "invalid_input")


def test_a_head_behind_a_running_request_has_the_limit_too(proxy: Proxy) -> None:
    with connect(proxy.address) as connection:
        connection.sendall(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n")
        assert proxy.application.num_running.acquire(timeout=30)
        try:
            for _ in range(10 * 2**20 // 2**14):
                connection.sendall((GET + b"x: ").ljust(2**14, b"y"))
        except OSError:
            return
    raise AssertionError("the server takes any amount")


def test_what_is_not_http_is_refused_in_openai_s_form(proxy: Proxy) -> None:
    for nonsense in (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET \xff\xfe HTTP/1.1\r\n\r\n", b"{}\r\n\r\n"):
        with connect(proxy.address) as connection:
            connection.sendall(nonsense)
            status, body, is_closed = read_response(connection)
        assert (status, code(body), is_closed) == (400, "invalid_input", True)


def test_a_websocket_is_an_ordinary_request(proxy: Proxy) -> None:
    upgrade = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAA\r\n"
    with connect(proxy.address) as connection:
        connection.sendall(GET + upgrade + b"\r\n")
        assert read_response(connection)[:2] == (200, True)
        proxy.limit(max_head_s=TIME_S)
        assert trickle(connection) in (b"", b"HTTP/1.1 400", b"HTTP/1.1 408")


def test_the_connection_that_rests_for_longest_makes_room(proxy: Proxy) -> None:
    proxy.limit(max_connections=4)
    with ExitStack() as stack:
        resting = [stack.enter_context(connect(proxy.address)) for _ in range(4)]
        for connection in (*resting[1:], resting[0]):  # in this order they begin to rest
            ask(connection)
        for number, longest in enumerate(resting[1:]):
            added = stack.enter_context(connect(proxy.address))
            ask(added)
            assert longest.recv(1) == b"", f"connection {number} was to make room"
        ask(resting[0])


def test_a_connection_at_the_limit_passes_and_one_past_it_does_not(proxy: Proxy) -> None:
    proxy.limit(max_connections=3)
    with ExitStack() as stack:
        running = [stack.enter_context(connect(proxy.address)) for _ in range(3)]
        for connection in running:
            connection.sendall(head("/wait", "content-length: 1"))
            assert proxy.application.num_running.acquire(timeout=30)
        refused = httpx.get(proxy.url)
        assert (refused.status_code, code(refused.json()), refused.headers["retry-after"]) == (503, "overloaded", "1")
        proxy.application.go_on.set()
        for connection in running:
            connection.sendall(b"x")
            assert read_response(connection)[0] == 200
        assert httpx.get(proxy.url).json() is True


def test_ray_s_proxy_has_the_limits(live: LiveServer) -> None:
    host, port = live.url.removeprefix("http://").split(":")
    with connect((host, int(port))) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        status, body, _ = read_response(connection)
    assert (status, code(body)) == (400, "invalid_input")


@pytest.mark.bench
def test_ray_s_proxy_answers_while_somebody_holds_thousands_of_connections(live: LiveServer) -> None:
    host, port = live.url.removeprefix("http://").split(":")
    with ExitStack() as stack:
        for _ in range(proxy_connections.MAX_CONNECTIONS + 100):
            stack.enter_context(connect((host, int(port))))
        assert httpx.get(f"{live.url}/healthz", timeout=30).status_code == 200
