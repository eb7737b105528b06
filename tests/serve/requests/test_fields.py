"""The accepted fields beside those of vLLM and of OpenAI's client: an update of either shows what is new here."""

import json
from typing import Any

import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsBase as CompletionParams
from ray.serve.llm.openai_api_models import ChatCompletionRequest, CompletionRequest

from looper.serve.protocol import Endpoint
from looper.serve.requests.checks import RequestLimits
from looper.serve.requests.fields import FIELDS
from looper.serve.requests.parser import parse_request

REFUSED_OF_VLLM = {
    *("chat_template", "priority", "prompt_embeds", "request_id", "session_id"),
    *("ec_transfer_params", "kv_transfer_params", "vllm_xargs"),
    *("media_io_kwargs", "mm_processor_kwargs", "repetition_detection", "thinking_token_budget"),
    *("return_assistant_tokens_mask", "return_token_offsets", "routed_experts_prompt_start"),
}
"""Fields of vLLM that the gateway refuses."""

REFUSED_OF_OPENAI = {
    *("audio", "function_call", "functions", "moderation", "prediction", "prompt_cache_options", "web_search_options"),
}
"""Fields of OpenAI's that the gateway refuses."""

HISTORY: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "text", "text": "hello"}]},
    {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "book", "arguments": '{"room": "blue"}'}, "index": 0}
        ],
        "reasoning": None,
    },
    {"role": "tool", "tool_call_id": "1", "name": "book", "content": "done"},
]
"""A conversation as clients send it back: with all the fields of an earlier response."""


@pytest.mark.parametrize(("endpoint", "model"), [("chat", ChatCompletionRequest), ("completions", CompletionRequest)])
def test_every_field_of_vllm_is_accepted_or_refused_on_purpose(endpoint: Endpoint, model: Any) -> None:
    assert model.model_fields.keys() - FIELDS[endpoint].keys() <= REFUSED_OF_VLLM
    passed_on = {name for name, field in FIELDS[endpoint].items() if field.is_passed_on}
    assert passed_on <= model.model_fields.keys()
    assert not passed_on & REFUSED_OF_VLLM


@pytest.mark.parametrize(("endpoint", "params"), [("chat", ChatParams), ("completions", CompletionParams)])
def test_every_field_of_openais_client_is_accepted_or_refused_on_purpose(endpoint: Endpoint, params: Any) -> None:
    assert params.__annotations__.keys() - FIELDS[endpoint].keys() <= REFUSED_OF_OPENAI
    assert not REFUSED_OF_OPENAI & FIELDS[endpoint].keys()


def test_a_conversation_is_accepted_as_clients_send_it_back() -> None:
    content = json.dumps({"model": "m", "messages": HISTORY, "stream": False, "user": "u", "store": False}).encode()
    [_, answer, result] = parse_request("chat", content, RequestLimits(1, 2048)).body["messages"]
    assert answer["tool_calls"][0]["function"]["name"] == "book"
    assert result == HISTORY[2]
