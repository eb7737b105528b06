"""The control plane reads nothing of a body without a valid key, and no more than the limit with one."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
from fastapi import FastAPI
from starlette.types import Message

from looper.platform.api import control_plane_router
from looper.platform.api.error_handlers import install_error_handlers
from looper.platform.api.request_body import MAX_JSON_BYTES
from looper.platform.api.request_gate import RequestGate
from looper.platform.catalog import Catalog
from looper.platform.domain.scopes import TENANT_SCOPES
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import load_settings
from looper.platform.tenancy import issue_key

SUBMIT = ("POST", "/api/v1/consolidations")
UPLOAD = ("POST", "/api/v1/instances/desk/trajectories")
PROMOTE = ("PUT", "/api/v1/skills/desk/channels/prod")


class ControlPlane:
    """A control plane called by ASGI without a server in between, so that a test sees how much it reads."""

    def __init__(self, home: Path, catalog: Catalog) -> None:
        settings = load_settings(home=home)
        self.app = FastAPI()
        self.app.include_router(
            control_plane_router(settings, catalog, ObjectStore.open(settings), RequestGate(settings.api))
        )
        install_error_handlers(self.app)
        catalog.create_tenant("acme")
        self.key = issue_key(catalog, "acme", scopes=TENANT_SCOPES)
        self.bytes_read = 0
        """Bytes of the last request's body that the application received."""

    def send(self, route: tuple[str, str], content: bytes, key: str) -> tuple[int, Any]:
        """Return status and JSON of the response. The body is sent in chunks, and no header says how long it is."""
        method, path = route
        self.bytes_read, response, status = 0, bytearray(), 0

        async def receive() -> Message:
            chunk = content[self.bytes_read : self.bytes_read + 2**16]
            self.bytes_read += len(chunk)
            return {"type": "http.request", "body": chunk, "more_body": self.bytes_read < len(content)}

        async def respond(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            response.extend(message.get("body", b""))

        headers = [(b"authorization", f"Bearer {key}".encode()), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b""}
        scope |= {"headers": headers, "asgi": {"version": "3.0"}, "root_path": ""}
        asyncio.run(self.app(scope, receive, respond))  # type: ignore[arg-type]
        return status, orjson.loads(response)


@pytest.fixture
def control_plane(tmp_path: Path) -> Iterator[ControlPlane]:
    with closing(Catalog.open(load_settings(home=tmp_path))) as catalog:
        yield ControlPlane(tmp_path, catalog)


@pytest.mark.parametrize("route", [SUBMIT, PROMOTE, UPLOAD])
@pytest.mark.parametrize("key", ["", "nonsense", f"looper_00_{'0' * 64}"])
def test_without_a_key_no_body_is_read(control_plane: ControlPlane, route: tuple[str, str], key: str) -> None:
    status, response = control_plane.send(route, b"[" + b"[]," * (32 * 2**20 // 3) + b"0]", key)
    assert (status, response["error"]["code"], control_plane.bytes_read) == (401, "invalid_api_key", 0)


def test_a_body_is_read_up_to_the_limit(control_plane: ControlPlane) -> None:
    fits = b'{"instances": ["nobody"]}'.ljust(MAX_JSON_BYTES)
    status, response = control_plane.send(SUBMIT, fits, control_plane.key)
    assert (status, response["error"]["code"]) == (404, "not_found")
    for content in (fits + b" ", fits.ljust(32 * 2**20)):
        status, response = control_plane.send(SUBMIT, content, control_plane.key)
        assert (status, response["error"]["code"]) == (413, "request_too_large")
        assert control_plane.bytes_read <= MAX_JSON_BYTES + 2**16


@pytest.mark.parametrize("route", [SUBMIT, PROMOTE])
@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"instances":' * 10_000, b"{", b"\xff"])
def test_a_body_that_is_not_json_is_refused(
    control_plane: ControlPlane, route: tuple[str, str], content: bytes
) -> None:
    status, response = control_plane.send(route, content, control_plane.key)
    assert (status, response["error"]["code"]) == (400, "invalid_input")
    assert "not JSON" in response["error"]["message"]


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b'{"instances":' + b"[" * 900 + b"]" * 900 + b"}"])
def test_json_of_the_wrong_shape_is_refused(control_plane: ControlPlane, content: bytes) -> None:
    status, response = control_plane.send(SUBMIT, content, control_plane.key)
    assert (status, response["error"]["code"]) == (422, "invalid_input")


def test_only_the_first_of_many_mistakes_is_reported(control_plane: ControlPlane) -> None:
    from pydantic import ValidationError

    from looper.platform.api.models import ConsolidationRequest

    with pytest.raises(ValidationError) as raised:
        ConsolidationRequest.model_validate({"instances": [[]] * 80_000})
    assert raised.value.error_count() == 1
    status, response = control_plane.send(SUBMIT, b'{"instances":[' + b"[]," * 80_000 + b"[]]}", control_plane.key)
    assert (status, response["error"]["param"]) == (422, "instances.0")
