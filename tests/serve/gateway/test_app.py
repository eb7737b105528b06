"""The gateway over HTTP, on a real catalog, with a scripted engine."""

import asyncio
import gzip
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from fastapi.testclient import TestClient
from structlog.testing import capture_logs

from looper.platform.catalog import Catalog, Quota
from looper.platform.domain.errors import Overloaded
from looper.platform.domain.names import InstanceName
from looper.platform.domain.scopes import TENANT_SCOPES, Scope
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings, load_settings
from looper.platform.tenancy import issue_key
from looper.serve.error_responses import engine_gone, looper_error_response
from looper.serve.gateway.app import build_gateway
from looper.serve.gateway.completion_handler import MAX_BODY_BYTES
from looper.serve.protocol import (
    AdmissionInfo,
    EngineOutput,
    EngineRequest,
    EngineUnavailable,
    FullResponse,
    StreamChunk,
    TokenCounts,
)
from tests.serve.published import adapter_files, publish_version

DESK = InstanceName("acme", "desk")
HELLO = [{"role": "user", "content": "hello"}]
CANARY_OF_50 = 5


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

    async def prefetch(self, digest: str, rank: int, hold_s: float) -> None:
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
        key = issue_key(self.catalog, "acme", scopes={Scope.OPERATOR})
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


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Bearer looper_00_11", "Basic abc", "Bearer nonsense", "Bearer looper_" + "a" * 9999],
)
def test_a_request_without_a_valid_key_is_refused(gateway: GatewayHarness, header: str) -> None:
    paths = {"/v1/chat/completions": "POST", "/v1/completions": "POST", "/v1/models": "GET", "/v1/models/x": "GET"}
    for path, method in paths.items():
        response = gateway.client.request(method, path, headers={"authorization": header})
        assert status_and_code(response) == (401, "invalid_api_key")
        assert response.headers["www-authenticate"] == "Bearer"
    assert gateway.engine.requests == []


def test_a_revoked_key_is_refused_with_the_next_request(gateway: GatewayHarness) -> None:
    assert gateway.post("acme/desk").status_code == 200
    gateway.catalog.revoke_key(gateway.key.split("_")[1])
    assert status_and_code(gateway.post("acme/desk")) == (401, "invalid_api_key")


@pytest.mark.parametrize(
    "model",
    [
        "nothing",
        "acme/nothing",
        "acme/new",
        "acme/desk@canary",
        f"acme/desk@{'0' * 64}",
        "other/desk",
        "other/nothing",
        "nobody/desk",
        "../x",
        "acme/../other/desk",
        "a/b/c",
        "acme/desk@",
        "ACME/desk",
        "/etc/passwd",
        "acme/desk\x00",
        "acme/desk'; drop table versions; --",
        "`acme/desk`",
    ],
)
def test_other_tenants_models_look_like_unknown_ones(gateway: GatewayHarness, model: str) -> None:
    unknown = gateway.post("acme/unknown")
    response = gateway.post(model)
    assert status_and_code(response) == (404, "model_not_found")
    assert response.json()["error"] == {
        **unknown.json()["error"],
        "message": unknown.json()["error"]["message"].replace("acme/unknown", model),
    }
    varying = {"content-length": "", "x-request-id": ""}
    assert dict(response.headers) | varying == dict(unknown.headers) | varying
    assert gateway.engine.requests == []


def test_a_digest_of_another_tenant_is_not_found(gateway: GatewayHarness) -> None:
    other_digest = gateway.catalog.get_channel(InstanceName("other", "desk"), "prod")
    assert status_and_code(gateway.post(f"acme/desk@{other_digest}")) == (404, "model_not_found")


@pytest.mark.parametrize("name", ["acme/desk", "acme/desk@prod", "acme/desk@{digest}"])
def test_a_response_has_the_model_name_of_the_request(gateway: GatewayHarness, name: str) -> None:
    model = name.format(digest=gateway.digest)
    response = gateway.post(model)
    assert response.status_code == 200
    # The text of the model does not change, even where it looks like the field.
    assert response.json() == {"model": model, "content": f'I wrote "model":"{gateway.digest}"'}
    assert response.headers["x-looper-version"] == gateway.digest
    [request] = gateway.engine.requests
    assert (request.endpoint, request.body["model"], request.digest) == ("chat", gateway.digest, gateway.digest)


def test_completions_reach_the_engine_too(gateway: GatewayHarness) -> None:
    assert gateway.post("acme/desk", "/v1/completions", prompt="x").json()["model"] == "acme/desk"
    assert gateway.engine.requests[0].endpoint == "completions"


def test_the_base_model_responds_under_its_own_name(gateway: GatewayHarness) -> None:
    response = gateway.post("org/base")
    assert response.json()["model"] == "org/base"
    assert "x-looper-version" not in response.headers
    [request] = gateway.engine.requests
    assert (request.body["model"], request.body["messages"], request.digest) == ("org/base", HELLO, None)


def test_streamed_events_have_the_model_name_of_the_request(gateway: GatewayHarness) -> None:
    with gateway.client.stream(
        "POST", "/v1/chat/completions", json={"model": "acme/desk", "messages": HELLO, "stream": True}
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-looper-version"] == gateway.digest
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert events.pop() == "[DONE]"
    assert [orjson.loads(event)["model"] for event in events] == ["acme/desk", "acme/desk"]


def test_a_promotion_applies_to_the_next_request(gateway: GatewayHarness, tmp_path: Path) -> None:
    store = ObjectStore.open(gateway.settings)
    assert gateway.post("acme/desk").headers["x-looper-version"] == gateway.digest
    newer = publish(tmp_path, gateway.catalog, store, DESK, b"two")
    assert gateway.post("acme/desk").headers["x-looper-version"] == newer
    gateway.catalog.set_channel(DESK, "prod", gateway.digest)
    assert gateway.post("acme/desk").headers["x-looper-version"] == gateway.digest
    gateway.catalog.set_channel(DESK, "canary", newer)
    assert gateway.post("acme/desk@canary").headers["x-looper-version"] == newer


def test_models_are_the_base_model_and_the_skills_of_the_tenant(gateway: GatewayHarness) -> None:
    listed = gateway.client.get("/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["org/base", "acme/desk"]
    assert gateway.client.get("/v1/models/acme/desk").json() == listed["data"][1]
    assert gateway.client.get("/v1/models/org/base").json() == listed["data"][0]
    assert status_and_code(gateway.client.get("/v1/models/other/desk")) == (404, "model_not_found")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 100_000])
def test_a_request_that_is_not_a_json_object_is_refused(gateway: GatewayHarness, content: bytes) -> None:
    response = gateway.client.post("/v1/chat/completions", content=content)
    assert status_and_code(response) == (400, "invalid_json")


@pytest.mark.parametrize("model", [None, "", 7, ["acme/desk"], {"a": 1}])
def test_a_request_must_name_its_model(gateway: GatewayHarness, model: object) -> None:
    response = gateway.post(model)
    assert status_and_code(response) == (400, None)
    assert response.json()["error"]["param"] == "model"


def test_a_request_that_is_too_large_is_refused(gateway: GatewayHarness) -> None:
    response = gateway.client.post("/v1/chat/completions", content=b"x" * (MAX_BODY_BYTES + 1))
    assert status_and_code(response) == (413, "request_too_large")


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip"])
def test_a_compressed_request_is_refused(gateway: GatewayHarness, encoding: str) -> None:
    content = gzip.compress(orjson.dumps({"model": "acme/desk", "messages": HELLO}))
    headers = {"content-encoding": encoding}
    response = gateway.client.post("/v1/chat/completions", content=content, headers=headers)
    assert status_and_code(response) == (415, None)
    assert encoding in response.json()["error"]["message"]


def test_the_engine_learns_how_many_sequences_a_request_needs(gateway: GatewayHarness) -> None:
    gateway.post("acme/desk", "/v1/completions", prompt=["a", "b"], n=3)
    gateway.post("acme/desk", n=2, use_beam_search=True)
    assert [request.num_seqs for request in gateway.engine.requests] == [6, 2]


def test_a_client_cannot_choose_the_request_id(gateway: GatewayHarness) -> None:
    response = gateway.post("acme/desk", request_id="chosen by the client")
    assert (response.status_code, response.json()["error"]["param"]) == (400, "request_id")
    gateway.post("acme/desk")
    assert gateway.engine.requests[0].body["request_id"]


@pytest.mark.parametrize("status", [400, 500, 503])
@pytest.mark.parametrize("stream", [False, True])
def test_errors_of_the_engine_keep_their_status_and_body(gateway: GatewayHarness, status: int, stream: bool) -> None:
    content = b'{"error":{"message":"too long","type":"BadRequestError","param":null,"code":400}}'
    gateway.engine.script = [FullResponse(status, content)]
    response = gateway.post("acme/desk", stream=stream)
    assert (response.status_code, response.content) == (status, content)


def test_a_stream_that_starts_with_an_error_becomes_an_error_response(gateway: GatewayHarness) -> None:
    content = b'{"error": {"message": "too many", "type": "BadRequestError", "param": "logprobs", "code": 400}}'
    gateway.engine.script = [f"data: {content.decode()}\n\n", "data: [DONE]\n\n"]
    response = gateway.post("acme/desk", stream=True)
    assert (response.status_code, response.content) == (400, content)
    assert response.headers["content-type"] == "application/json"


def test_an_engine_failure_reveals_no_internals(gateway: GatewayHarness) -> None:
    gateway.engine.script = [RuntimeError("secret address")]
    response = gateway.post("acme/desk")
    assert status_and_code(response) == (500, "engine_failed")
    assert "secret" not in response.text


def test_an_interrupted_stream_ends_with_an_error_event(gateway: GatewayHarness) -> None:
    gateway.engine.script = ["data: {}\n\n", RuntimeError("secret address")]
    response = gateway.post("acme/desk", stream=True)
    first, error, done = response.text.strip().split("\n\n")
    assert (first, done) == ("data: {}", "data: [DONE]")
    assert orjson.loads(error.removeprefix("data: "))["error"]["code"] == "engine_failed"
    assert "secret" not in response.text


def test_an_unknown_path_or_method_gets_an_error_in_openai_form(gateway: GatewayHarness) -> None:
    assert status_and_code(gateway.client.get("/v1/nothing")) == (404, None)
    assert status_and_code(gateway.client.get("/v1/chat/completions")) == (405, None)
    assert status_and_code(gateway.client.get("/api/v1/nothing")) == (404, None)
    assert status_and_code(gateway.client.get("/api/v1/instances/a/b")) == (404, None)
    refused = gateway.client.post("/api/v1/skills")
    assert (status_and_code(refused), refused.headers["allow"]) == ((405, None), "GET")


def test_the_control_plane_is_served_too(gateway: GatewayHarness) -> None:
    assert gateway.client.get("/api/v1/instances").status_code == 200
    assert status_and_code(gateway.client.get("/api/v1/instances", headers={"authorization": ""})) == (
        401,
        "invalid_api_key",
    )
    assert "/api/v1/skills" in gateway.client.get("/openapi.json").json()["paths"]


def test_only_an_operator_sees_the_metrics_of_all_tenants(gateway: GatewayHarness) -> None:
    for header, code in (("", 401), (f"Bearer {gateway.key}", 403)):
        response = gateway.client.get("/metrics", headers={"authorization": header})
        assert response.status_code == code
        assert "looper_requests" not in response.text
    gateway.post("acme/desk")
    assert "looper_requests_total" in gateway.read_metrics()


def test_health_needs_no_key_and_metrics_count_outcomes(gateway: GatewayHarness) -> None:
    gateway.post("acme/desk")
    gateway.post("acme/nothing")
    gateway.engine.script = [FullResponse(503, b"{}")]
    gateway.post("acme/desk")
    assert gateway.client.get("/healthz", headers={"authorization": ""}).status_code == 200
    text = gateway.read_metrics()
    for outcome in ("ok", "refused", "failed"):
        assert f'looper_requests_total{{endpoint="/chat/completions",outcome="{outcome}"}} 1.0' in text
    assert 'looper_request_seconds_count{endpoint="/chat/completions"} 3.0' in text


def test_the_engine_can_tell_tenants_apart_without_their_names(gateway: GatewayHarness) -> None:
    gateway.post("acme/desk")
    other = issue_key(gateway.catalog, "other")
    gateway.client.post(
        "/v1/chat/completions",
        json={"model": "other/desk", "messages": HELLO},
        headers={"authorization": f"Bearer {other}"},
    )
    gateway.post("org/base")
    first, second, third = (request.tenant_hash for request in gateway.engine.requests)
    assert first == third != second
    assert "acme" not in first


def test_an_overloaded_engine_says_when_to_retry(gateway: GatewayHarness) -> None:
    gateway.engine.script = [looper_error_response(Overloaded("full", retry_after_s=1.2))]
    response = gateway.client.post(
        "/v1/chat/completions", json={"model": "acme/desk", "messages": HELLO}, headers={"x-looper-within-s": "3"}
    )
    assert status_and_code(response) == (503, "overloaded")
    assert response.headers["retry-after"] == "2"
    max_wait_s = gateway.engine.requests[0].max_wait_s
    assert max_wait_s is not None
    assert 0 < max_wait_s < 3  # what is left of it


@pytest.mark.parametrize("max_wait", ["soon", "-1", "0", "nan", "inf"])
def test_an_invalid_maximum_wait_is_refused(gateway: GatewayHarness, max_wait: str) -> None:
    response = gateway.client.post(
        "/v1/chat/completions", json={"model": "acme/desk", "messages": HELLO}, headers={"x-looper-within-s": max_wait}
    )
    assert status_and_code(response) == (400, None)
    assert gateway.engine.requests == []


def test_a_canary_gets_its_share_and_both_versions_are_compared(gateway: GatewayHarness, tmp_path: Path) -> None:
    newer = publish(tmp_path, gateway.catalog, ObjectStore.open(gateway.settings), DESK, b"two")
    gateway.catalog.set_channel(DESK, "canary", gateway.digest, 0.1)
    gateway.engine.tokens = TokenCounts(5, 7)
    versions = [gateway.post_turn("acme/desk", number) for number in range(50)]
    # Which conversations the canary gets depends on their first message alone.
    assert (versions.count(gateway.digest), versions.count(newer)) == (CANARY_OF_50, 50 - CANARY_OF_50)
    assert [gateway.post_turn("acme/desk@prod", number, turn=2) for number in range(50)] == versions
    gateway.engine.script = [FullResponse(503, b"{}")]
    assert [gateway.post_turn("acme/desk", number, turn=4) for number in range(50)] == versions
    traffic = gateway.client.get("/api/v1/skills/desk/traffic").json()
    assert {digest: (stats["requests"], stats["failed"], stats["tokens"]) for digest, stats in traffic.items()} == {
        digest: (3 * count, count, 2 * count * 7)
        for digest, count in ((newer, 50 - CANARY_OF_50), (gateway.digest, CANARY_OF_50))
    }
    assert traffic[newer]["seconds"]["p50"] <= traffic[newer]["seconds"]["p95"]
    text = gateway.read_metrics()
    assert f'looper_tokens_total{{channel="canary",kind="generated"}} {2 * CANARY_OF_50 * 7:.1f}' in text
    assert f'looper_tokens_total{{channel="prod",kind="read"}} {2 * (50 - CANARY_OF_50) * 5:.1f}' in text
    assert gateway.client.get("/api/v1/skills/desk/traffic", headers={"authorization": ""}).status_code == 401


def test_a_revoked_version_stops_streaming_and_is_not_found(gateway: GatewayHarness) -> None:
    gateway.engine.pause_s = 0.3
    gateway.engine.script = ["data: {}\n\n"] * 20
    body = {"model": "acme/desk", "messages": HELLO, "stream": True}
    with gateway.client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        assert next(lines) == "data: {}"
        gateway.catalog.revoke_version(DESK, gateway.digest)
        rest = [line for line in lines if line]
    assert len(rest) < 10
    assert orjson.loads(rest[-2].removeprefix("data: "))["error"]["code"] == "version_revoked"
    assert rest[-1] == "data: [DONE]"
    for name in ("acme/desk", f"acme/desk@{gateway.digest}"):
        assert status_and_code(gateway.post(name)) == (404, "model_not_found")


@pytest.mark.parametrize("revoked", ["version", "key"])
def test_a_complete_response_is_withheld_if_it_was_revoked_meanwhile(gateway: GatewayHarness, revoked: str) -> None:
    gateway.engine.pause_s = 0.05
    gateway.engine.script = [*(StreamChunk("", TokenCounts(1, n)) for n in range(1200)), FullResponse(200, b"{}")]
    with ThreadPoolExecutor(1) as pool:
        response = pool.submit(gateway.post, "acme/desk")
        wait_until(lambda: bool(gateway.engine.requests))
        if revoked == "version":
            gateway.catalog.revoke_version(DESK, gateway.digest)
            expected = (503, "version_revoked")
        else:
            gateway.catalog.revoke_key(gateway.key.split("_")[1])
            expected = (401, "invalid_api_key")
        assert status_and_code(response.result(60)) == expected
    wait_until(lambda: gateway.engine.finished == 1)


def test_a_tenant_above_its_rate_limit_is_told_when_to_retry_and_others_are_served(gateway: GatewayHarness) -> None:
    gateway.catalog.set_quota("acme", Quota(requests_per_minute=3))
    assert [gateway.post("acme/desk").status_code for _ in range(4)] == [200, 200, 200, 429]
    refused = gateway.post("acme/desk")
    assert status_and_code(refused) == (429, "rate_limit_exceeded")
    assert 1 <= int(refused.headers["retry-after"]) <= 20
    other = {"authorization": f"Bearer {issue_key(gateway.catalog, 'other')}"}
    assert (
        gateway.client.post(
            "/v1/chat/completions", json={"model": "other/desk", "messages": HELLO}, headers=other
        ).status_code
        == 200
    )


def test_each_sequence_of_a_request_counts_as_a_request(gateway: GatewayHarness) -> None:
    gateway.catalog.set_quota("acme", Quota(requests_per_minute=6))
    assert [gateway.post("acme/desk", n=n).status_code for n in (4, 4, 2, 1)] == [200, 429, 200, 429]


def test_concurrent_requests_are_limited_until_one_ends(gateway: GatewayHarness) -> None:
    settings = load_settings(home=gateway.settings.home, base="org/base", serve={"max_concurrent_requests": 2})
    app = build_gateway(settings, gateway.catalog, ObjectStore.open(settings), gateway.engine)
    gateway.engine.pause_s = 0.1

    async def send_together(count: int) -> list[int]:
        headers = {"authorization": f"Bearer {gateway.key}"}
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://looper", headers=headers
        ) as client:
            body = {"model": "acme/desk", "messages": HELLO, "stream": True}
            responses = [client.post("/v1/chat/completions", json=body) for _ in range(count)]
            return sorted(response.status_code for response in await asyncio.gather(*responses))

    assert asyncio.run(send_together(5)) == [200, 200, 429, 429, 429]
    assert asyncio.run(send_together(2)) == [200, 200]


def test_tokens_are_charged_as_the_engine_counts_them(gateway: GatewayHarness) -> None:
    gateway.catalog.set_quota("acme", Quota(tokens_per_minute=100))
    gateway.engine.tokens = TokenCounts(60, 60)
    assert [gateway.post("acme/desk").status_code for _ in range(2)] == [200, 429]


def test_models_are_listed_in_pages(gateway: GatewayHarness, tmp_path: Path) -> None:
    store = ObjectStore.open(gateway.settings)
    for number in range(5):
        publish(tmp_path, gateway.catalog, store, InstanceName("acme", f"x{number}"), b"%d" % number)
    ids: list[str] = []
    page: dict[str, Any] = {"has_more": True, "last_id": None}
    while page["has_more"]:
        after = {"after": page["last_id"]} if page["last_id"] else {}
        page = gateway.client.get("/v1/models", params={"limit": 3, **after}).json()
        assert len(page["data"]) <= 3
        ids += [model["id"] for model in page["data"]]
    assert ids == ["org/base", "acme/desk", *(f"acme/x{number}" for number in range(5))]
    assert gateway.client.get("/v1/models", params={"after": "org/base"}).json()["first_id"] == "acme/desk"
    for after in ("other/desk", "nonsense", "../x"):
        assert status_and_code(gateway.client.get("/v1/models", params={"after": after})) == (400, None)


@pytest.mark.parametrize("events", [0, 1])
def test_a_dead_engine_is_a_reason_to_retry(gateway: GatewayHarness, events: int) -> None:
    gateway.engine.script = [*["data: {}\n\n"][:events], EngineUnavailable(engine_gone(2.5))]
    response = gateway.post("acme/desk", stream=True)
    if events:
        assert "try again" in response.text
    else:
        assert status_and_code(response) == (503, "engine_gone")
        assert response.headers["retry-after"] == "3"


def test_admission_is_measured_and_the_tier_is_in_the_headers(gateway: GatewayHarness) -> None:
    admission = AdmissionInfo("store", load_s=0.25, wait_s=0.0, slot_usage=0.5, evicted={"memory": 2, "disk": 0})
    gateway.engine.script = [admission, FullResponse(200, b"{}", tokens=TokenCounts(3, 2))]
    assert gateway.post("acme/desk").headers["x-looper-adapter"] == "store"
    gateway.engine.script = [admission, 'data: {"a":1}\n\n', "data: [DONE]\n\n"]
    streamed = gateway.post("acme/desk", stream=True)
    assert (streamed.headers["x-looper-adapter"], streamed.text) == ("store", 'data: {"a":1}\n\ndata: [DONE]\n\n')
    gateway.engine.script = [replace(admission, tier=None, evicted={}), FullResponse(200, b"{}")]
    assert "x-looper-adapter" not in gateway.post("org/base").headers
    text = gateway.read_metrics()
    assert 'looper_adapters_asked_total{tier="store"} 2.0' in text
    assert 'looper_adapter_load_seconds_sum{tier="store"} 0.5' in text
    assert 'looper_adapters_evicted_total{tier="memory"} 4.0' in text
    assert "looper_slots_taken_count 3.0" in text


def test_a_promotion_loads_the_adapter_before_the_channel_changes(gateway: GatewayHarness) -> None:
    prefetches: list[tuple[str, dict[str, float]]] = []
    gateway.engine.on_prefetch = lambda digest: prefetches.append((digest, gateway.catalog.get_channel_shares(DESK)))
    path = "/api/v1/skills/desk/channels/canary"
    response = gateway.client.put(path, json={"digest": gateway.digest, "share": 0.25})
    assert response.json()["shares"] == {"canary": 0.25}
    # The prefetcher also loads what the fixture has published, at any time.
    assert (gateway.digest, {}) in prefetches


def test_each_request_is_logged_once_with_the_id_in_its_response_header(gateway: GatewayHarness) -> None:
    admission = AdmissionInfo("disk", load_s=0.25, wait_s=0.5, slot_usage=0.5, evicted={})
    gateway.engine.script = [admission, 'data: {"a":1}\n\n', "data: [DONE]\n\n"]
    with capture_logs() as lines:
        response = gateway.post("acme/desk", stream=True)
        gateway.client.get("/v1/nowhere")
    (request,) = gateway.engine.requests
    streamed, missing = lines
    assert streamed["id"] == response.headers["x-request-id"] == request.body["request_id"]
    assert streamed | {"seconds": 0} == {
        "event": "request",
        "log_level": "info",
        "id": streamed["id"],
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "outcome": "ok",
        "tenant": "acme",
        "model": "acme/desk",
        "version": gateway.digest,
        "channel": "prod",
        "adapter_from": "disk",
        "load_s": 0.25,
        "queue_s": 0.5,
        "tokens_read": 1,
        "tokens_generated": 1,
        "seconds": 0,
    }
    assert (missing["status"], missing["outcome"], "tenant" in missing) == (404, "refused", False)
