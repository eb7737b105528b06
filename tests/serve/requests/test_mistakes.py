"""Mistakes that vLLM answers with a 500, or at length, sent to a real server: each is refused, and named."""

from typing import Any

import httpx
import pytest

from tests.serve.live import HELLO, LiveServer, send_chat


@pytest.mark.parametrize("stream", [False, True])
def test_mistakes_that_vllm_takes_for_its_own_are_refused_and_named(live: LiveServer, stream: bool) -> None:
    client = live.tenant("named")
    expected = send_chat(client, "tiny")

    def nested(depth: int) -> Any:
        return {"a": nested(depth - 1)} if depth else 1

    def schema(value: Any) -> dict[str, Any]:
        return {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": value}}}

    image = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/a.png"}}
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "[" * 5000}}
    mistakes: list[tuple[str, dict[str, Any]]] = [
        ("messages", {"messages": None}),
        ("messages[0].role", {"messages": [{}] * 80_000}),
        ("messages[0].content[0].type", {"messages": [{"role": "user", "content": [image]}]}),
        ("messages[0].tool_calls[0].function.arguments", {"messages": [{"role": "assistant", "tool_calls": [call]}]}),
        ("metadata", {"metadata": nested(900)}),
        ("response_format.json_schema.schema", schema(nested(250))),
        ("response_format.json_schema.schema", schema({"$ref": "#"})),
        ("chat_template_kwargs.conversation", {"chat_template_kwargs": {"conversation": []}}),
        ("chat_template", {"chat_template": "{{ 1 }}"}),
        ("priority", {"priority": -5}),
    ]
    headers = {"authorization": f"Bearer {client.api_key}"}
    with httpx.Client(base_url=live.url, headers=headers, timeout=60) as http:
        for field, more in mistakes:
            body = {"model": "tiny", "max_tokens": 1, "messages": HELLO, "stream": stream, **more}
            response = http.post("/v1/chat/completions", json=body)
            assert response.status_code == 400, (field, response.text[:500])
            assert response.json()["error"]["param"] == field
    assert send_chat(client, "tiny") == expected
