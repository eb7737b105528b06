"""What holds for every request before any route: an id, a bounded URL and headers, and no NUL characters.

``RequestBoundary`` is the outermost middleware of the gateway. The error handlers write the same id into the log, so
that an operator finds the details of an error that a client reports.
"""

import uuid
from contextlib import suppress
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from looper.platform.api.headers import API_VERSION, API_VERSION_HEADER
from looper.platform.api.models import ErrorBody, ErrorDetail

REQUEST_ID_HEADER: Final = "x-request-id"
"""Response header with the id of the request, which the log has too."""

MAX_URL_BYTES = 8 * 2**10
"""Maximum size of path and query string together, in bytes."""

MAX_HEADER_BYTES = 32 * 2**10
"""Maximum size of all names and values of the headers together, in bytes."""


def request_id_of(scope: Scope) -> str:
    """Return the id of a request. The first call chooses it.

    The gateway chooses the id, because an id chosen by a client could equal that of another request.

    Args:
        scope: ASGI's scope of the request. Mounted applications share its ``state``.

    Returns:
        32 hexadecimal digits.
    """
    state = scope.setdefault("state", {})
    if "request_id" not in state:
        state["request_id"] = uuid.uuid4().hex
    return str(state["request_id"])


class RequestBoundary:
    """Refuses requests that no route could answer, and gives each response the id of its request.

    A response that starts before the whole body has arrived closes the connection. Otherwise the server would go on to
    read the rest, however long it is and however slowly it comes.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, as ASGI defines it.

        Args:
            scope: What is known about the connection.
            receive: Receives messages of the client.
            send: Sends messages to the client.
        """
        if scope["type"] != "http" or "request_id" in scope.get("state", {}):  # another boundary is around this one
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(scope).encode()
        is_body_pending = any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0"))
            for name, value in scope["headers"]
        )

        async def receive_and_observe() -> Message:
            nonlocal is_body_pending
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                is_body_pending = False
            return message

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ())]
                headers.append((API_VERSION_HEADER.encode(), API_VERSION.encode()))
                if all(name.lower() != REQUEST_ID_HEADER.encode() for name, _ in headers):
                    headers.append((REQUEST_ID_HEADER.encode(), request_id))
                if is_body_pending:
                    headers.append((b"connection", b"close"))
                message = {**message, "headers": headers}
            await send(message)

        if refusal := _find_fault(scope):
            await _refuse(send_with_id, *refusal)
            return
        with suppress(ClientDisconnect):  # Nobody waits for a response.
            await self._app(scope, receive_and_observe, send_with_id)


def _find_fault(scope: Scope) -> tuple[int, str] | None:
    """Return status and message of the refusal of a request, None if there is nothing wrong with it."""
    query = scope.get("query_string", b"")
    if len(scope.get("raw_path") or scope["path"].encode()) + len(query) > MAX_URL_BYTES:
        return 414, f"the URL has more than {MAX_URL_BYTES // 2**10} KiB"
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
        return 431, f"the headers have more than {MAX_HEADER_BYTES // 2**10} KiB"
    # No name has a NUL, and PostgreSQL fails on one.
    if "\0" in scope["path"] or b"%00" in query or b"\0" in query:
        return 400, "the URL has a NUL character"
    return None


async def _refuse(send: Send, status: int, message: str) -> None:
    detail = ErrorDetail(message=message, type="invalid_request_error", code="invalid_input")
    body = ErrorBody(error=detail).model_dump_json().encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
