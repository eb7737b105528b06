"""When the gateway tells the proxy that a request is with the engines."""

import asyncio

import orjson
from starlette.types import Message

from looper.serve.gateway.turn_end import TURN_END
from tests.serve.gateway.harness import GatewayHarness


def post(gateway: GatewayHarness, body: dict[str, object], extensions: dict[str, object]) -> list[str]:
    """Send a request to the application itself; return the types of the messages of its response."""
    found: list[str] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": orjson.dumps(body), "more_body": False}

    async def send(message: Message) -> None:
        found.append(message["type"])

    headers = [(b"authorization", f"Bearer {gateway.key}".encode()), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "root_path": "", "query_string": b""}
    asyncio.run(gateway.client.app({**scope, "headers": headers, "extensions": extensions}, receive, send))
    return found


def test_a_request_that_is_with_the_engines_is_told_before_its_response(gateway: GatewayHarness) -> None:
    request = {"model": "acme/desk", "prompt": "hello"}
    told = post(gateway, request, {TURN_END: {}})
    assert told[:2] == [TURN_END, "http.response.start"]
    assert told.count(TURN_END) == 1
    assert TURN_END not in post(gateway, request, {}), "this server knows no such message"


def test_a_refused_request_never_was_with_the_engines(gateway: GatewayHarness) -> None:
    assert post(gateway, {"model": "acme/desk", "prompt": 1}, {TURN_END: {}})[0] == "http.response.start"
    assert gateway.engine.requests == []
