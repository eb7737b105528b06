"""What the control plane reads of a request: nothing without a key, and no more than it is meant to with one."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
from fastapi import FastAPI
from starlette.types import Message

from looper.platform.api import control_plane
from looper.platform.api.errors import answer_errors
from looper.platform.catalog import Catalog
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import load_settings
from looper.platform.tenancy import issue_key

MAX_JSON = 256 * 2**10
SUBMIT, UPLOAD = ("POST", "/api/v1/consolidations"), ("POST", "/api/v1/instances/desk/trajectories")
POINT = ("PUT", "/api/v1/skills/desk/channels/prod")


class Plane:
    """A control plane, spoken to without a server between, so that it shows what it reads."""

    def __init__(self, home: Path, catalog: Catalog) -> None:
        settings = load_settings(home=home)
        self.app = FastAPI()
        self.app.include_router(control_plane(settings, catalog, ObjectStore.open(settings)))
        answer_errors(self.app)
        catalog.create_tenant("acme")
        self.key = issue_key(catalog, "acme")
        self.read = 0
        """Bytes of the last request's body that were asked for."""

    def ask(self, route: tuple[str, str], content: bytes, key: str) -> tuple[int, Any]:
        """The status and the JSON of the answer. The body comes in chunks, and no header says how long it is."""
        method, path = route
        self.read, answer, status = 0, bytearray(), 0

        async def receive() -> Message:
            chunk = content[self.read : self.read + 2**16]
            self.read += len(chunk)
            return {"type": "http.request", "body": chunk, "more_body": self.read < len(content)}

        async def send(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            answer.extend(message.get("body", b""))

        headers = [(b"authorization", f"Bearer {key}".encode()), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b""}
        scope |= {"headers": headers, "asgi": {"version": "3.0"}, "root_path": ""}
        asyncio.run(self.app(scope, receive, send))  # type: ignore[arg-type]
        return status, orjson.loads(answer)


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with closing(Catalog.open(load_settings(home=tmp_path))) as catalog:
        yield Plane(tmp_path, catalog)


@pytest.mark.parametrize("route", [SUBMIT, POINT, UPLOAD])
@pytest.mark.parametrize("key", ["", "nonsense", f"looper_00_{'0' * 64}"])
def test_without_a_key_nothing_of_a_body_is_read(plane: Plane, route: tuple[str, str], key: str) -> None:
    status, answer = plane.ask(route, b"[" + b"[]," * (32 * 2**20 // 3) + b"0]", key)
    assert (status, answer["error"]["code"], plane.read) == (401, "invalid_api_key", 0)


def test_a_body_is_read_to_its_bound(plane: Plane) -> None:
    fits = b'{"instances": ["nobody"]}'.ljust(MAX_JSON)
    status, answer = plane.ask(SUBMIT, fits, plane.key)
    assert (status, answer["error"]["code"]) == (404, "not_found")
    for content in (fits + b" ", fits.ljust(32 * 2**20)):
        status, answer = plane.ask(SUBMIT, content, plane.key)
        assert (status, answer["error"]["code"]) == (413, "request_too_large")
        assert plane.read <= MAX_JSON + 2**16


@pytest.mark.parametrize("route", [SUBMIT, POINT])
@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"instances":' * 10_000, b"{", b"\xff"])
def test_what_is_no_json_is_said_so(plane: Plane, route: tuple[str, str], content: bytes) -> None:
    status, answer = plane.ask(route, content, plane.key)
    assert (status, answer["error"]["code"]) == (400, "invalid_input")
    assert "not JSON" in answer["error"]["message"]


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b'{"instances":' + b"[" * 900 + b"]" * 900 + b"}"])
def test_json_of_the_wrong_shape_is_said_so(plane: Plane, content: bytes) -> None:
    status, answer = plane.ask(SUBMIT, content, plane.key)
    assert (status, answer["error"]["code"]) == (422, "invalid_input")


def test_of_many_mistakes_the_first_is_told(plane: Plane) -> None:
    from pydantic import ValidationError

    from looper.platform.api.models import ConsolidationRequest

    with pytest.raises(ValidationError) as raised:
        ConsolidationRequest.model_validate({"instances": [[]] * 80_000})
    assert raised.value.error_count() == 1
    status, answer = plane.ask(SUBMIT, b'{"instances":[' + b"[]," * 80_000 + b"[]]}", plane.key)
    assert (status, answer["error"]["param"]) == (422, "instances.0")
