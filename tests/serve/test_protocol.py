"""OpenAI's API on a real server, as vLLM implements it: what clients may send, and what they receive."""

import json
from typing import Any

import httpx
import openai
import pytest

from looper.platform.domain.names import InstanceName
from tests.serve.live import HELLO, LiveServer, send_chat
from tests.serve.published import publish_version, random_adapter

BOOK: Any = {
    "type": "function",
    "function": {
        "name": "book",
        "parameters": {
            "type": "object",
            "properties": {"room": {"enum": ["blue", "red"]}},
            "required": ["room"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def client(live: LiveServer) -> openai.OpenAI:
    """Return a client of a skill with varied output. Its prompt is in the prefix cache already."""
    client, agent = live.tenant("protocol"), InstanceName("protocol", "agent")
    publish_version(live.catalog, live.store, agent, random_adapter(live.base, agent, 110))
    send_chat(client, MODEL)
    return client


MODEL = "protocol/agent"
RANDOM_SAMPLING: Any = {"max_tokens": 1000, "temperature": 2, "seed": 1}
"""With greedy sampling, a random model may generate blanks forever, which JSON allows."""


def chat(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(**{"model": MODEL, "messages": HELLO, "max_tokens": 12, **more})


def test_a_seed_makes_sampling_repeatable_and_n_choices_differ(client: openai.OpenAI) -> None:
    first, again, other = (chat(client, n=3, seed=seed, temperature=1) for seed in (7, 7, 8))
    texts = [[choice.message.content for choice in response.choices] for response in (first, again, other)]
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert texts[0] == texts[1] != texts[2]
    assert len(set(texts[0])) == 3
    assert first.usage.completion_tokens > 12


def test_several_choices_are_streamed_together_and_usage_comes_last(client: openai.OpenAI) -> None:
    full = chat(client, n=2, seed=7, temperature=1)
    stream = chat(client, n=2, seed=7, temperature=1, stream=True, stream_options={"include_usage": True})
    chunks, texts = list(stream), ["", ""]
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in full.choices]
    streamed, whole = chunks[-1].usage, full.usage
    assert streamed.prompt_tokens_details.cached_tokens == whole.prompt_tokens_details.cached_tokens
    # The rest of the details differs: vLLM reports newly cached tokens in streams only.
    assert streamed.model_dump(exclude={"prompt_tokens_details"}) == whole.model_dump(exclude={"prompt_tokens_details"})
    assert {chunk.model for chunk in chunks} == {MODEL}


def test_a_response_ends_before_the_stop_string(client: openai.OpenAI) -> None:
    full, _ = send_chat(client, MODEL)
    stop = full[len(full) // 2 :][:3]
    response = chat(client, temperature=0, stop=[stop])
    assert response.choices[0].message.content == full[: full.index(stop)]
    assert response.choices[0].finish_reason == "stop"
    assert chat(client, max_tokens=1, temperature=0).choices[0].finish_reason == "length"


def test_log_probabilities_of_chats_and_completions(client: openai.OpenAI) -> None:
    [choice] = chat(client, temperature=0, logprobs=True, top_logprobs=3).choices
    assert len(choice.logprobs.content) <= 12
    for token in choice.logprobs.content:
        best = [candidate.logprob for candidate in token.top_logprobs]
        assert len(best) == 3
        assert token.logprob == max(best) <= 0
    completion = client.completions.create(model=MODEL, prompt="hello", max_tokens=4, temperature=0, logprobs=2)
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.token_logprobs is not None
    assert len(logprobs.token_logprobs) == 4


def test_a_completion_may_have_several_prompts_and_echo_them(client: openai.OpenAI) -> None:
    both = client.completions.create(model=MODEL, prompt=["hello", "please"], max_tokens=4, temperature=0, echo=True)
    assert [choice.text.split()[0][:5] for choice in both.choices] == ["hello", "pleas"]
    for prompt, choice in zip(("hello", "please"), both.choices, strict=True):
        alone = client.completions.create(model=MODEL, prompt=prompt, max_tokens=4, temperature=0)
        assert choice.text == prompt + alone.choices[0].text


@pytest.mark.parametrize("stream", [False, True])
def test_structured_output_follows_its_schema(client: openai.OpenAI, stream: bool) -> None:
    schema = BOOK["function"]["parameters"]
    response_format = {"type": "json_schema", "json_schema": {"name": "booking", "schema": schema, "strict": True}}
    response = chat(client, response_format=response_format, stream=stream, **RANDOM_SAMPLING)
    if stream:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in response if chunk.choices)
    else:
        text = response.choices[0].message.content
    assert json.loads(text)["room"] in ("blue", "red")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "book"}}])
def test_a_tool_that_must_be_called_is_called(client: openai.OpenAI, choice: Any, stream: bool) -> None:
    response = chat(client, tools=[BOOK], tool_choice=choice, stream=stream, **RANDOM_SAMPLING)
    if stream:
        calls = [call for chunk in response for choice in chunk.choices for call in choice.delta.tool_calls or []]
        calls = [call for call in calls if call.index == 0]  # the model may call the tool again
    else:
        calls = response.choices[0].message.tool_calls[:1]
    assert "".join(call.function.name or "" for call in calls) == "book"
    assert json.loads("".join(call.function.arguments or "" for call in calls))["room"] in ("blue", "red")


def test_each_tenant_lists_its_own_models_in_pages(live: LiveServer) -> None:
    client, other = live.tenant("lists"), live.tenant("lists-too")
    for number in range(3):
        live.publish(InstanceName("lists", f"agent-{number}"), 120 + number)
    live.publish(InstanceName("lists-too", "agent"), 123)
    page: Any = client.models.list(extra_query={"limit": 2})
    assert [model.id for model in page.data] == ["tiny", "lists/agent-0"]
    assert page.has_more
    page = client.models.list(extra_query={"limit": 2, "after": page.last_id})
    assert [model.id for model in page.data] == ["lists/agent-1", "lists/agent-2"]
    assert not page.has_more
    assert [model.id for model in other.models.list()] == ["tiny", "lists-too/agent"]
    assert client.models.retrieve("lists/agent-0").id == "lists/agent-0"
    with pytest.raises(openai.NotFoundError):
        other.models.retrieve("lists/agent-0")


@pytest.mark.parametrize("stream", [False, True])
def test_every_error_has_openais_form(live: LiveServer, client: openai.OpenAI, stream: bool) -> None:
    headers = {"authorization": f"Bearer {client.api_key}"}
    wrong: list[tuple[int, str, dict[str, Any]]] = [
        (400, "/v1/chat/completions", {"n": 0}),
        (400, "/v1/chat/completions", {"top_logprobs": 1000, "logprobs": True}),
        (400, "/v1/chat/completions", {"tools": [{"type": "function"}]}),
        (400, "/v1/chat/completions", {"tool_choice": "required"}),
        (400, "/v1/chat/completions", {"response_format": {"type": "nonsense"}}),
        (400, "/v1/chat/completions", {"structured_outputs": {"regex": "("}}),
        (400, "/v1/chat/completions", {"stop": 7}),
        (400, "/v1/completions", {"prompt": [[-1]]}),
        (400, "/v1/completions", {"prompt": [[10**9]]}),
        (400, "/v1/completions", {"prompt": "a " * 5000}),
        (404, "/v1/chat/completions", {"model": "protocol/nothing"}),
        (404, "/v1/embeddings", {"input": "hello"}),
    ]
    with httpx.Client(base_url=live.url, headers=headers, timeout=60) as http:
        for status, path, more in wrong:
            content = {"messages": HELLO} if "chat" in path else {"prompt": "hello"}
            response = http.post(path, json={"model": MODEL, **content, "stream": stream, **more})
            assert response.status_code == status, (more, response.text)
            assert {"message", "type", "param", "code"} <= response.json()["error"].keys(), more
    assert send_chat(client, MODEL)[0]
