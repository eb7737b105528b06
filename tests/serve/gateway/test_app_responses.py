"""What the gateway makes of an engine's responses: errors, streams, limits, versions, metrics and logs."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from structlog.testing import capture_logs

from looper.platform.catalog import Quota
from looper.platform.domain.errors import Overloaded
from looper.platform.domain.names import InstanceName
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import load_settings
from looper.platform.tenancy import issue_key
from looper.serve.error_responses import engine_gone, looper_error_response
from looper.serve.gateway.app import build_gateway
from looper.serve.protocol import (
    AdmissionInfo,
    EngineUnavailable,
    FullResponse,
    StreamChunk,
    TokenCounts,
)
from tests.serve.gateway.harness import (
    DESK,
    HELLO,
    GatewayHarness,
    publish,
    status_and_code,
    wait_until,
)

CANARY_OF_50 = 5


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
