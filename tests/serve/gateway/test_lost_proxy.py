"""A proxy that is lost before it has handed over the body of a request."""

import asyncio

import orjson
import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError
from starlette.types import Message

from tests.serve.gateway.harness import GatewayHarness


@pytest.mark.parametrize("path", ["/v1/completions", "/api/v1/consolidations"])
@pytest.mark.parametrize("error", [ActorDiedError(), ActorUnavailableError("lost", b"0" * 16)], ids=type)
def test_the_client_is_told_to_send_the_request_again(gateway: GatewayHarness, path: str, error: Exception) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        raise error

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"authorization", f"Bearer {gateway.key}".encode()), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "root_path": "", "query_string": b""}
    asyncio.run(gateway.client.app({**scope, "headers": headers}, receive, send))
    assert sent[0]["status"] == 503
    assert dict(sent[0]["headers"])[b"retry-after"] == b"1"
    assert orjson.loads(sent[1]["body"])["error"]["code"] == "overloaded"
    assert gateway.engine.requests == []
