"""Bodies that are too large or too slow, over real connections."""

import json
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from looper.platform.api.upload_queue import MAX_UPLOAD_BYTES
from looper.serve.deployment import proxy_bodies
from looper.serve.deployment.proxy_bodies import BodyLimitMiddleware
from looper.serve.gateway import completion_handler
from tests.serve.live import LiveServer

PAUSE_S = 0.3
TOTAL_BYTES = 10 * 2**20


async def count_bytes(scope: Scope, receive: Receive, send: Send) -> None:
    """Take in a body as Ray's proxy does, and respond with its size. It never ends before the client does."""
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        if not message["more_body"]:
            break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(size).encode()})


@contextmanager
def run_proxy(**limits: Any) -> Iterator[tuple[str, int]]:
    """Run the middleware behind a real HTTP server; yield its address."""
    app = BodyLimitMiddleware(count_bytes, **limits)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname()  # connections wait in the listener's queue until it serves
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def proxy() -> Iterator[tuple[str, int]]:
    with run_proxy(max_total_bytes=TOTAL_BYTES) as address:
        yield address


@pytest.fixture(scope="module")
def impatient_proxy() -> Iterator[tuple[str, int]]:
    with run_proxy(max_pause_s=PAUSE_S) as address:
        yield address


@contextmanager
def connect(address: tuple[str, int]) -> Iterator[socket.socket]:
    with socket.create_connection(address, timeout=30) as connection:
        yield connection


def head(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "host: x", *headers, "", ""]).encode()


def chunk(size: int) -> bytes:
    return f"{size:x}\r\n".encode() + bytes(size) + b"\r\n"


def read_response(connection: socket.socket) -> tuple[int, object, bool]:
    """Return status, parsed body and whether the server has closed the connection after it."""
    file = connection.makefile("rb")
    status = int(file.readline().split()[1])
    headers = dict(line.decode().strip().lower().split(": ", 1) for line in iter(file.readline, b"\r\n"))
    size = headers.get("content-length")
    body = file.read(int(size)) if size else file.read(int(file.readline(), 16))
    return status, json.loads(body), headers.get("connection") == "close" and file.read() == b""


def code(body: object) -> object:
    assert isinstance(body, dict)
    return body["error"]["code"]


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize(("path", "limit"), [("/v1/completions", 2 * 2**20), ("/api/v1/keys", 2**20)])
def test_a_body_at_the_limit_passes_and_one_past_it_does_not(
    proxy: tuple[str, int], path: str, limit: int, is_chunked: bool
) -> None:
    for size in (limit, limit + 1):
        with connect(proxy) as connection:
            if is_chunked:
                connection.sendall(head(path, "transfer-encoding: chunked") + chunk(limit))
                connection.sendall((chunk(size - limit) if size > limit else b"") + b"0\r\n\r\n")
            else:
                connection.sendall(head(path, f"content-length: {size}"))
                if size == limit:
                    connection.sendall(bytes(size))
            status, body, is_closed = read_response(connection)
        if size == limit:
            assert (status, body) == (200, limit)
        else:
            assert (status, code(body), is_closed) == (413, "request_too_large", True)


def test_a_body_that_stops_arriving_is_refused(impatient_proxy: tuple[str, int]) -> None:
    with connect(impatient_proxy) as connection:
        connection.sendall(head("/v1/completions", "content-length: 100") + b"{")
        status, body, is_closed = read_response(connection)
    assert (status, code(body), is_closed) == (408, "request_too_slow", True)


def test_a_body_that_trickles_is_refused_though_it_never_pauses(impatient_proxy: tuple[str, int]) -> None:
    with connect(impatient_proxy) as connection:
        connection.sendall(head("/v1/completions", "content-length: 100000"))
        connection.settimeout(PAUSE_S / 10)
        received = b""
        for _ in range(1000):
            try:
                connection.sendall(b"x")
                received = connection.recv(12)
                break
            except TimeoutError:
                continue
    assert received == b"HTTP/1.1 408"


def test_all_bodies_together_are_bounded_and_the_room_is_given_back(proxy: tuple[str, int]) -> None:
    half = head("/api/v1/instances/x", "transfer-encoding: chunked") + chunk(TOTAL_BYTES // 2)
    for _ in range(2):
        with connect(proxy) as first, connect(proxy) as second:
            first.sendall(half)
            second.sendall(half + chunk(1))
            [refused], _, _ = select.select([first, second], [], [], 30)
            status, body, _ = read_response(refused)
            assert (status, code(body)) == (503, "overloaded")
            other = second if refused is first else first
            other.sendall(b"0\r\n\r\n")
            assert read_response(other)[0] == 200


def test_the_proxy_s_limits_are_the_gateway_s() -> None:
    assert proxy_bodies.MAX_BODY_BYTES["/v1/"] == completion_handler.MAX_BODY_BYTES
    assert proxy_bodies.MAX_BODY_BYTES["/api/v1/instances/"] == MAX_UPLOAD_BYTES


def test_ray_s_proxy_has_the_limits(live: LiveServer) -> None:
    host, port = live.url.removeprefix("http://").split(":")
    with connect((host, int(port))) as connection:
        connection.sendall(head("/v1/completions", f"content-length: {2 * 2**20 + 1}"))
        status, body, _ = read_response(connection)
    assert (status, code(body)) == (413, "request_too_large")


@pytest.mark.bench
def test_ray_s_proxy_does_not_wait_for_a_body_for_ever(live: LiveServer) -> None:
    host, port = live.url.removeprefix("http://").split(":")
    key = live.tenant("slow").api_key
    with connect((host, int(port))) as connection:
        connection.sendall(head("/v1/completions", f"authorization: Bearer {key}", "content-length: 100") + b"{")
        connection.settimeout(3 * proxy_bodies.MAX_PAUSE_S)
        status, body, _ = read_response(connection)
    assert (status, code(body)) == (408, "request_too_slow")
