"""The gateway over HTTP, on a real catalog, with an engine made of a list of replies."""

from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from fastapi.testclient import TestClient

from looper.platform.api import control_plane
from looper.platform.catalog import Catalog
from looper.platform.domain.names import InstanceName
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings, load_settings
from looper.platform.tenancy import issue_key
from looper.serve.gateway import MAX_BODY, gateway
from looper.serve.protocol import Body, Call, Reply, Whole
from tests.serve.published import adapter_files, publish_version

DESK = InstanceName("acme", "desk")
HELLO = [{"role": "user", "content": "hello"}]


class Scripted:
    """Says what it was asked with, in vLLM's form; ``script`` overrides what it says."""

    def __init__(self) -> None:
        self.asked: list[tuple[Call, Body, str | None]] = []
        self.script: list[Reply | Exception] | None = None
        self.finished = 0

    async def answer(self, call: Call, body: Body, digest: str | None) -> AsyncGenerator[Reply, None]:
        self.asked.append((call, body, digest))
        model = body["model"]
        said = orjson.dumps({"model": model, "content": f'I wrote "model":"{model}"'}).decode()
        script = self.script
        if script is None:
            streamed = [f"data: {said}\n\n", f"data: {said}\n\ndata: [DONE]\n\n"]
            script = [*streamed] if body.get("stream") else [Whole(200, said.encode())]
        try:
            for reply in script:
                if isinstance(reply, Exception):
                    raise reply
                yield reply
        finally:
            self.finished += 1


@dataclass
class Served:
    settings: Settings
    catalog: Catalog
    engine: Scripted
    client: TestClient
    key: str
    digest: str

    def post(self, model: object, path: str = "/v1/chat/completions", **more: object) -> Any:
        return self.client.post(path, json={"model": model, "messages": HELLO, **more})


def version(served_base: Path, catalog: Catalog, store: ObjectStore, instance: InstanceName, weights: bytes) -> str:
    return publish_version(catalog, store, instance, adapter_files(served_base, instance, weights))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "looper.json").write_text('{"revision": "r"}')
    settings = load_settings(home=tmp_path / "home", base="org/base")
    catalog, store, engine = Catalog.open(settings), ObjectStore.open(settings), Scripted()
    digest = version(tmp_path, catalog, store, DESK, b"one")
    version(tmp_path, catalog, store, InstanceName("other", "desk"), b"theirs")
    catalog.ensure_instance(InstanceName("acme", "new"))
    key = issue_key(catalog, "acme")
    app = gateway(
        base=settings.base, catalog=catalog, engine=engine, control_plane=control_plane(settings, catalog, store)
    )
    with TestClient(app, headers={"authorization": f"Bearer {key}"}, raise_server_exceptions=False) as client:
        yield Served(settings, catalog, engine, client, key, digest)
    catalog.close()


def code(response: Any) -> tuple[int, str | None]:
    detail = response.json()["error"]
    assert set(detail) == {"message", "type", "param", "code"}
    return response.status_code, detail["code"]


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Bearer looper_00_11", "Basic abc", "Bearer nonsense", "Bearer looper_" + "a" * 9999],
)
def test_without_a_valid_key_nothing_is_answered(served: Served, header: str) -> None:
    paths = {"/v1/chat/completions": "POST", "/v1/completions": "POST", "/v1/models": "GET", "/v1/models/x": "GET"}
    for path, method in paths.items():
        response = served.client.request(method, path, headers={"authorization": header})
        assert code(response) == (401, "invalid_api_key")
        assert response.headers["www-authenticate"] == "Bearer"
    assert served.engine.asked == []


def test_a_revoked_key_ends_with_the_next_request(served: Served) -> None:
    assert served.post("acme/desk").status_code == 200
    served.catalog.revoke_key(served.key.split("_")[1])
    assert code(served.post("acme/desk")) == (401, "invalid_api_key")


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
def test_what_a_tenant_may_not_see_does_not_exist(served: Served, model: str) -> None:
    unknown = served.post("acme/unknown")
    response = served.post(model)
    assert code(response) == (404, "model_not_found")
    assert response.json()["error"] == {
        **unknown.json()["error"],
        "message": unknown.json()["error"]["message"].replace("acme/unknown", model),
    }
    assert dict(response.headers) | {"content-length": ""} == dict(unknown.headers) | {"content-length": ""}
    assert served.engine.asked == []


def test_another_tenant_s_version_is_not_reached_by_its_digest(served: Served) -> None:
    theirs = served.catalog.channel(InstanceName("other", "desk"), "prod")
    assert code(served.post(f"acme/desk@{theirs}")) == (404, "model_not_found")


@pytest.mark.parametrize("name", ["acme/desk", "acme/desk@prod", "acme/desk@{digest}"])
def test_a_skill_answers_under_the_name_it_was_asked_by(served: Served, name: str) -> None:
    model = name.format(digest=served.digest)
    response = served.post(model)
    assert response.status_code == 200
    # What the model wrote is left alone, even where it looks like the field.
    assert response.json() == {"model": model, "content": f'I wrote "model":"{served.digest}"'}
    assert response.headers["x-looper-version"] == served.digest
    [(call, body, digest)] = served.engine.asked
    assert (call, body["model"], digest) == ("chat", served.digest, served.digest)


def test_completions_go_the_same_way(served: Served) -> None:
    assert served.post("acme/desk", "/v1/completions", prompt="x").json()["model"] == "acme/desk"
    assert served.engine.asked[0][0] == "completions"


def test_the_base_model_answers_by_its_own_name(served: Served) -> None:
    response = served.post("org/base")
    assert response.json()["model"] == "org/base"
    assert "x-looper-version" not in response.headers
    assert served.engine.asked[0][1:] == ({"model": "org/base", "messages": HELLO}, None)


def test_streamed_events_name_the_skill_too(served: Served) -> None:
    with served.client.stream("POST", "/v1/chat/completions", json={"model": "acme/desk", "stream": True}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-looper-version"] == served.digest
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert events.pop() == "[DONE]"
    assert [orjson.loads(event)["model"] for event in events] == ["acme/desk", "acme/desk"]


def test_a_promotion_takes_effect_with_the_next_request(served: Served, tmp_path: Path) -> None:
    store = ObjectStore.open(served.settings)
    assert served.post("acme/desk").headers["x-looper-version"] == served.digest
    newer = version(tmp_path, served.catalog, store, DESK, b"two")
    assert served.post("acme/desk").headers["x-looper-version"] == newer
    served.catalog.point(DESK, "prod", served.digest)
    assert served.post("acme/desk").headers["x-looper-version"] == served.digest
    served.catalog.point(DESK, "canary", newer)
    assert served.post("acme/desk@canary").headers["x-looper-version"] == newer


def test_models_are_the_base_and_what_the_tenant_serves(served: Served) -> None:
    listed = served.client.get("/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["org/base", "acme/desk"]
    assert served.client.get("/v1/models/acme/desk").json() == listed["data"][1]
    assert served.client.get("/v1/models/org/base").json() == listed["data"][0]
    assert code(served.client.get("/v1/models/other/desk")) == (404, "model_not_found")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 100_000])
def test_a_request_that_is_not_a_json_object_is_refused(served: Served, content: bytes) -> None:
    response = served.client.post("/v1/chat/completions", content=content)
    assert code(response) == (400, "invalid_json")


@pytest.mark.parametrize("model", [None, "", 7, ["acme/desk"], {"a": 1}])
def test_a_request_must_name_its_model(served: Served, model: object) -> None:
    response = served.post(model)
    assert code(response) == (400, None)
    assert response.json()["error"]["param"] == "model"


def test_a_request_that_is_too_large_is_refused(served: Served) -> None:
    response = served.client.post("/v1/chat/completions", content=b"x" * (MAX_BODY + 1))
    assert code(response) == (413, "request_too_large")


def test_a_client_cannot_choose_its_request_s_id(served: Served) -> None:
    served.post("acme/desk", request_id="that of another")
    assert "request_id" not in served.engine.asked[0][1]


@pytest.mark.parametrize("status", [400, 500, 503])
@pytest.mark.parametrize("stream", [False, True])
def test_the_engine_s_errors_keep_their_status_and_body(served: Served, status: int, stream: bool) -> None:
    said = b'{"error":{"message":"too long","type":"BadRequestError","param":null,"code":400}}'
    served.engine.script = [Whole(status, said)]
    response = served.post("acme/desk", stream=stream)
    assert (response.status_code, response.content) == (status, said)


def test_an_engine_that_fails_is_told_without_its_inner_life(served: Served) -> None:
    served.engine.script = [RuntimeError("secret address")]
    response = served.post("acme/desk")
    assert code(response) == (500, "engine_failed")
    assert "secret" not in response.text


def test_a_stream_that_breaks_off_says_so(served: Served) -> None:
    served.engine.script = ["data: {}\n\n", RuntimeError("secret address")]
    response = served.post("acme/desk", stream=True)
    first, broken, done = response.text.strip().split("\n\n")
    assert (first, done) == ("data: {}", "data: [DONE]")
    assert orjson.loads(broken.removeprefix("data: "))["error"]["code"] == "engine_failed"
    assert "secret" not in response.text


def test_a_wrong_path_or_method_is_answered_in_openai_s_form(served: Served) -> None:
    assert code(served.client.get("/v1/nothing")) == (404, None)
    assert code(served.client.get("/v1/chat/completions")) == (405, None)


def test_the_control_plane_answers_beside_it(served: Served) -> None:
    assert served.client.get("/api/v1/instances").status_code == 200
    assert code(served.client.get("/api/v1/instances", headers={"authorization": ""})) == (401, "invalid_api_key")
    assert "/api/v1/skills" in served.client.get("/openapi.json").json()["paths"]


def test_health_and_metrics_need_no_key(served: Served) -> None:
    served.post("acme/desk")
    served.post("acme/nothing")
    served.engine.script = [Whole(503, b"{}")]
    served.post("acme/desk")
    assert served.client.get("/healthz", headers={"authorization": ""}).status_code == 200
    text = served.client.get("/metrics", headers={"authorization": ""}).text
    for outcome in ("ok", "refused", "failed"):
        assert f'looper_requests_total{{endpoint="/chat/completions",outcome="{outcome}"}} 1.0' in text
    assert 'looper_request_seconds_count{endpoint="/chat/completions"} 3.0' in text
