"""Who may ask the gateway for what: keys, models, and requests that are refused before an engine sees them."""

import gzip
from pathlib import Path

import orjson
import pytest

from looper.platform.domain.names import InstanceName
from looper.platform.objectstore import ObjectStore
from looper.serve.gateway.completion_handler import MAX_BODY_BYTES
from tests.serve.gateway.harness import DESK, HELLO, GatewayHarness, publish, status_and_code


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
