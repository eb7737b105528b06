"""What the proxy says of a gateway that died, or does not run yet."""

import asyncio
import json

import pytest
from ray.serve._private.http_util import RequestIdMiddleware
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from looper.serve.deployment.proxy_errors import ProxyErrorMiddleware, proxy_middlewares
from looper.serve.routing import known_replicas


async def answer(request: Request) -> Response:
    status = int(request.query_params["status"])
    if "raise" in request.query_params:
        raise RuntimeError("the actor died")
    if "json" in request.query_params:
        return JSONResponse({"error": {"code": "engine_failed"}}, status)
    return PlainTextResponse("Internal Server Error", status)


def test_a_failure_in_the_proxy_s_own_words_says_to_ask_again() -> None:
    client = TestClient(Starlette(routes=[Route("/", answer)], middleware=proxy_middlewares()))
    for failed in ("/?status=500", "/?status=500&raise", "/?status=404"):
        gone = client.get(failed)
        assert (gone.status_code, gone.headers["retry-after"]) == (503, "1")
        assert gone.json()["error"]["code"] == "gateway_gone"
    for untouched in ("/?status=200", "/?status=404&json", "/?status=500&json", "/?status=503&json"):
        assert client.get(untouched).status_code == int(untouched[9:12])


def test_an_answer_that_never_begins_is_one_too() -> None:
    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    assert TestClient(ProxyErrorMiddleware(silent)).get("/").json()["error"]["code"] == "gateway_gone"


@pytest.mark.parametrize("raises", [False, True])
def test_a_stream_whose_gateway_dies_ends_with_the_error(raises: bool) -> None:
    async def dies(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'data: {"a": 1}\n\n', "more_body": True})
        if raises:
            raise RuntimeError("the actor died")

    first, error, done, _ = TestClient(ProxyErrorMiddleware(dies)).get("/").text.split("\n\n")
    assert first == 'data: {"a": 1}'
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "gateway_gone"
    assert done == "data: [DONE]"


def test_a_stream_that_ends_gets_nothing_more() -> None:
    async def stream(_: Request) -> Response:
        return StreamingResponse(iter(["data: 1\n\n", "data: [DONE]\n\n"]), media_type="text/event-stream")

    client = TestClient(ProxyErrorMiddleware(Starlette(routes=[Route("/", stream)])))
    assert client.get("/").text == "data: 1\n\ndata: [DONE]\n\n"


def test_a_response_has_one_request_id_that_of_the_gateway() -> None:
    """Ray Serve's proxy adds an id of its own to each response."""
    id = "0123456789abcdef" * 2

    async def gateway(_: Request) -> Response:
        return Response(headers={"x-request-id": id})

    middleware = [*proxy_middlewares(), Middleware(RequestIdMiddleware)]
    response = TestClient(Starlette(routes=[Route("/", gateway)], middleware=middleware)).get("/")
    assert response.headers.get_list("x-request-id") == [id]


def test_a_request_waits_for_a_gateway_to_run_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart, Ray Serve's proxy accepts requests long before the first gateway has started."""
    monkeypatch.setattr(known_replicas, "_counts", {})
    ended = []

    async def wait_for_a_gateway(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if not known_replicas.count_replicas(known_replicas.GATEWAY_NAME):
                await asyncio.Event().wait()
            await PlainTextResponse("at last")(scope, receive, send)
        finally:
            ended.append(True)

    client = TestClient(ProxyErrorMiddleware(wait_for_a_gateway, max_start_wait_s=0.2))
    gone = client.get("/")
    assert (gone.status_code, gone.json()["error"]["code"]) == (503, "gateway_gone")
    assert ended, "the request no longer waits"
    known_replicas.watch(known_replicas.GATEWAY_NAME, lambda: 1)
    assert client.get("/").text == "at last"
    known_replicas.watch(known_replicas.GATEWAY_NAME, lambda: 0)
    assert client.get("/").status_code == 503
