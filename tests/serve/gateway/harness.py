"""The gateway over HTTP, on a real catalog, with a scripted engine."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from fastapi.testclient import TestClient

from looper.platform.catalog import Catalog
from looper.platform.domain.names import InstanceName
from looper.platform.domain.scopes import TENANT_SCOPES, Scope
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings, load_settings
from looper.platform.tenancy import issue_key
from looper.serve.gateway.app import build_gateway
from looper.serve.protocol import (
    EngineOutput,
    EngineRequest,
    FullResponse,
    StreamChunk,
    TokenCounts,
)
from tests.serve.published import adapter_files, publish_version

DESK = InstanceName("acme", "desk")
HELLO = [{"role": "user", "content": "hello"}]


class ScriptedEngine:
    """Responds with the body of the request, in vLLM's form, or with ``script``, in which a string is events.

    It counts one token per event of a stream, and ``tokens`` for a full response.
    """

    def __init__(self) -> None:
        self.requests: list[EngineRequest] = []
        self.script: Sequence[EngineOutput | str | Exception] | None = None
        self.tokens: TokenCounts | None = None
        self.pause_s = 0.0
        self.finished = 0
        self.on_prefetch: Callable[[str], None] = lambda _: None

    async def prefetch(self, base: str, digest: str, rank: int, hold_s: float) -> None:
        self.on_prefetch(digest)

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
        self.requests.append(request)
        model, body = request.body["model"], request.body
        content = orjson.dumps({"model": model, "content": f'I wrote "model":"{model}"'}).decode()
        script, generated = self.script, 0
        if script is None:
            events = [f"data: {content}\n\n", f"data: {content}\n\ndata: [DONE]\n\n"]
            script = events if body.get("stream") else [FullResponse(200, content.encode(), tokens=self.tokens)]
        try:
            for output in script:
                if isinstance(output, Exception):
                    raise output
                if isinstance(output, str):
                    generated += output.count("data: {")
                    output = StreamChunk(output, TokenCounts(1, generated))
                yield output
                await asyncio.sleep(self.pause_s)
        finally:
            self.finished += 1


@dataclass
class GatewayHarness:
    settings: Settings
    catalog: Catalog
    engine: ScriptedEngine
    client: TestClient
    key: str
    digest: str

    def read_metrics(self) -> str:
        key = issue_key(self.catalog, None, scopes={Scope.METRICS})
        response = self.client.get("/metrics", headers={"authorization": f"Bearer {key}"})
        assert response.status_code == 200
        return response.text

    def post(self, model: object, path: str = "/v1/chat/completions", **more: object) -> Any:
        content = {"prompt": "hello"} if path == "/v1/completions" else {"messages": HELLO}
        return self.client.post(path, json={"model": model, **content, **more})

    def post_turn(self, model: str, conversation: int, turn: int = 0) -> str:
        """Send a turn of a conversation; return the digest of the version."""
        messages = [{"role": "user", "content": f"hello {conversation}"}, *HELLO * turn]
        return str(self.post(model, messages=messages).headers["x-looper-version"])


def publish(base: Path, catalog: Catalog, store: ObjectStore, instance: InstanceName, weights: bytes) -> str:
    return publish_version(catalog, store, instance, adapter_files(base, instance, weights))


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayHarness]:
    (tmp_path / "looper.json").write_text('{"revision": "r"}')
    settings = load_settings(home=tmp_path / "home", base="org/base")
    catalog, store, engine = Catalog.open(settings), ObjectStore.open(settings), ScriptedEngine()
    digest = publish(tmp_path, catalog, store, DESK, b"one")
    publish(tmp_path, catalog, store, InstanceName("other", "desk"), b"theirs")
    catalog.ensure_instance(InstanceName("acme", "new"))
    key = issue_key(catalog, "acme", scopes=TENANT_SCOPES)
    app = build_gateway(settings, catalog, store, engine)
    with TestClient(app, headers={"authorization": f"Bearer {key}"}, raise_server_exceptions=False) as client:
        yield GatewayHarness(settings, catalog, engine, client, key, digest)
    catalog.close()


def wait_until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    """Wait for what other threads or processes do."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def status_and_code(response: Any) -> tuple[int, str | None]:
    detail = response.json()["error"]
    assert set(detail) == {"message", "type", "param", "code"}
    return response.status_code, detail["code"]
