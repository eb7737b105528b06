"""Connections of Ray Serve's HTTP proxy: bounds their number, and what a client may do that is no request yet.

``proxy_bodies`` bounds what follows a request's head. Before it, uvicorn would wait for ever and keep any amount of
memory: a client that sends nothing, or its head byte by byte, would hold a descriptor of the proxy as long as it likes.
So would one that does not read its response.
"""

import asyncio
import resource
from http import HTTPStatus
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from uvicorn.config import HTTP_PROTOCOLS, Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from looper.platform.api.request_boundary import MAX_HEADER_BYTES, MAX_URL_BYTES
from looper.serve.error_responses import head_too_large, head_too_slow, malformed_request, too_many_connections
from looper.serve.protocol import FullResponse

MAX_HEAD_S = 20.0
"""Maximum time from a connection, or from the first byte of a further request on it, to a complete head, in seconds."""

MAX_HEAD_BYTES = 2 * (MAX_URL_BYTES + MAX_HEADER_BYTES)
"""Maximum size of a head that is not complete, in bytes. Gateways refuse smaller ones, and say what is too large."""

MAX_UNREAD_S = 20.0
"""Maximum time in which a client reads ``MIN_READ_BYTES`` of the response that waits for it, in seconds."""

MIN_READ_BYTES = 64 * 2**10
"""What a client reads at least in ``MAX_UNREAD_S``, in bytes, or else all that there is."""

MAX_CONNECTIONS = min(8192, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
"""Maximum number of open connections. Half of the process's descriptors are left for Ray."""

_waiting: WeakKeyDictionary[ServerState, dict["ProxyConnection", None]] = WeakKeyDictionary()
"""Connections of each server without a request, the longest first."""


class ProxyConnection(HttpToolsProtocol):
    """One connection, as uvicorn calls it.

    If there are too many, the one that has been without a request for longest makes room. If all have requests, the new
    one is refused. So whoever only holds connections keeps nobody out.

    Args:
        config: The server's configuration.
        server_state: What all connections of a server share.
        app_state: State of the application.
        _loop: Event loop of the server.

    Attributes:
        max_head_s: ``MAX_HEAD_S``.
        max_unread_s: ``MAX_UNREAD_S``.
        max_connections: ``MAX_CONNECTIONS``.
    """

    max_head_s: ClassVar[float] = MAX_HEAD_S
    max_unread_s: ClassVar[float] = MAX_UNREAD_S
    max_connections: ClassVar[int] = MAX_CONNECTIONS

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.ws_protocol_class = None  # no route is a WebSocket, and its protocol has none of these bounds
        self._waiting = _waiting.setdefault(server_state, {})
        self._head_timer: asyncio.TimerHandle | None = None
        self._read_timer: asyncio.TimerHandle | None = None
        self._unread_bytes = 0
        self._head_bytes = 0
        self._num_heads = 0
        self._is_in_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection, if there is room for it.

        Args:
            transport: The connection.
        """
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            longest = next(iter(self._waiting), None)
            if longest is None:
                self._refuse(too_many_connections())
                return
            del self._waiting[longest]
            longest.transport.abort()
        self._waiting[self] = None
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection.

        Args:
            exc: Why it broke, None if it was closed.
        """
        self._waiting.pop(self, None)
        self._stop_head_timer()
        self._stop_read_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse a part of a request, and refuse a head that is too large.

        Args:
            data: What has arrived.
        """
        num_heads, was_in_body = self._num_heads, self._is_in_body
        super().data_received(data)
        if self.transport.is_closing():
            return
        if not self._has_request and self._head_timer is None:
            self._start_head_timer()  # uvicorn has just ended its own limit for the time between requests
        if self._num_heads == num_heads and not was_in_body:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(head_too_large(MAX_HEAD_BYTES))

    def on_headers_complete(self) -> None:
        """Start a request. The parser calls it."""
        self._num_heads += 1
        self._head_bytes = 0
        self._is_in_body = True
        self._waiting.pop(self, None)
        self._stop_head_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End the body of a request. The parser calls it."""
        self._is_in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request, or until the client has read the response if it was the last one."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._start_read_timer()
        elif not self._has_request:
            self._waiting[self] = None

    def pause_writing(self) -> None:
        """Watch a client that does not read as fast as the application writes. The transport calls it."""
        super().pause_writing()
        self._start_read_timer()

    def resume_writing(self) -> None:
        """Let the application write again. The transport calls it."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop_read_timer()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection without further requests. What the client has not read keeps it open for a while only."""
        super().timeout_keep_alive_handler()
        self._start_read_timer()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP.

        Args:
            msg: What uvicorn would say.
        """
        self._refuse(malformed_request())

    @property
    def _has_request(self) -> bool:
        """Whether the head of a request has arrived whose response is not complete."""
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, response: FullResponse) -> None:
        """Respond, unless another response is on its way, and close the connection."""
        if not self._has_request:
            headers = {"content-type": "application/json", "content-length": str(len(response.body))}
            headers |= {**response.headers, "connection": "close"}
            lines = [f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            self.transport.write("\r\n".join([*lines, "", ""]).encode() + response.body)
        self.transport.close()
        self._start_read_timer()

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self.max_head_s, self._on_slow_head)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _on_slow_head(self) -> None:
        if self._head_bytes:
            self._refuse(head_too_slow())
        else:  # it has sent nothing, or it still sends a body that was answered
            self.transport.abort()

    def _start_read_timer(self) -> None:
        self._stop_read_timer()
        self._unread_bytes = self.transport.get_write_buffer_size()
        self._read_timer = self.loop.call_later(self.max_unread_s, self._on_read_timer)

    def _stop_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _on_read_timer(self) -> None:
        if self.transport.get_write_buffer_size() > self._unread_bytes - MIN_READ_BYTES:
            self.transport.abort()
        else:
            self._start_read_timer()


def bound_connections() -> None:
    """Make ``ProxyConnection`` the protocol of the servers that this process starts from now on.

    Ray gives no protocol to uvicorn, so it takes the one that is named "auto".
    """
    HTTP_PROTOCOLS["auto"] = f"{__name__}:{ProxyConnection.__name__}"
