"""Skills on a real server: Ray Serve, vLLM on CPU, and the official client over HTTP."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from looper.platform.domain.names import InstanceName
from tests.serve.live import HELLO, LiveServer, send_chat

BOOK: Any = {
    "type": "function",
    "function": {
        "name": "book",
        "parameters": {"type": "object", "properties": {"room": {"type": "string"}}, "required": ["room"]},
    },
}


def test_cold_skills_are_loaded_concurrently_and_each_generates_its_own_token(live: LiveServer) -> None:
    client = live.tenant("cold")
    instances = [InstanceName("cold", f"agent-{number}") for number in range(4)]
    digests = [live.publish(instance, seed) for seed, instance in enumerate(instances)]
    base, version = send_chat(client, "tiny")
    assert version == ""
    with ThreadPoolExecutor(4) as pool:
        cold = list(pool.map(lambda instance: send_chat(client, str(instance)), instances))
    assert [version for _, version in cold] == digests
    assert len({base, *(text for text, _ in cold)}) == 5
    # More skills evict these from the local disk, which holds six. They are loaded again when they are requested.
    for seed in (10, 11, 12):
        live.publish(InstanceName("cold", f"agent-{seed}"), seed)
        send_chat(client, f"cold/agent-{seed}")
    assert [send_chat(client, str(instance)) for instance in instances] == cold
    assert send_chat(client, "tiny")[0] not in {text for text, _ in cold}


def test_the_first_sampling_request_does_not_wait_for_a_compiler(live: LiveServer) -> None:
    client = live.tenant("samples")
    send_chat(client, "tiny")
    started = time.perf_counter()
    send_chat(client, "tiny", temperature=1)
    assert time.perf_counter() - started < 5


def test_a_seed_gives_the_same_output_with_and_without_the_prefix_cache(live: LiveServer) -> None:
    client = live.tenant("seeds")
    long = [{"role": "user", "content": "Please book the blue room. " * 20}]

    def sample(seed: int, salt: str) -> str:
        more: Any = {"messages": long, "seed": seed, "temperature": 1, "extra_body": {"cache_salt": salt}}
        return send_chat(client, "tiny", **more)[0]

    first = sample(7, "a")
    assert sample(7, "b") == first, "another prefill"
    assert sample(7, "a") == first, "most of the prompt was in the prefix cache"
    assert sample(8, "a") != first


def test_the_prefix_cache_is_separate_for_each_tenant(live: LiveServer) -> None:
    one, other = live.tenant("cached"), live.tenant("looks")
    long: Any = [{"role": "user", "content": "Which rooms are free? " * 20}]

    def cached_tokens(client: openai.OpenAI, **more: Any) -> int:
        response = client.chat.completions.create(model="tiny", messages=long, max_tokens=1, extra_body=more)
        assert response.usage is not None
        assert response.usage.prompt_tokens_details is not None
        return response.usage.prompt_tokens_details.cached_tokens or 0

    assert cached_tokens(one) == 0
    assert cached_tokens(one) > 0
    assert cached_tokens(other) == 0
    # A cache salt from the client divides its tenant's cache further.
    assert cached_tokens(one, cache_salt="mine") == 0
    assert cached_tokens(one, cache_salt="mine") > 0
    assert cached_tokens(other, cache_salt="mine") == 0


def test_streams_and_completions(live: LiveServer) -> None:
    client = live.tenant("streams")
    live.publish(InstanceName("streams", "agent"), 20)
    full, _ = send_chat(client, "streams/agent")
    chunks = list(
        client.chat.completions.create(model="streams/agent", messages=HELLO, max_tokens=12, temperature=0, stream=True)
    )
    assert {chunk.model for chunk in chunks} == {"streams/agent"}
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == full
    completion = client.completions.create(model="streams/agent", prompt="hello", max_tokens=4)
    assert completion.model == "streams/agent"
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 4


@pytest.mark.parametrize("stream", [False, True])
def test_tool_calls_are_parsed(live: LiveServer, stream: bool) -> None:
    client = live.tenant("tools")
    if not stream:
        live.publish(InstanceName("tools", "agent"), 30)
    # A random model calls no tool by itself, so its tokens are constrained to a call. vLLM parses it.
    call = r'<tool_call>\n\{"name": "book", "arguments": \{"room": "blue"\}\}\n</tool_call>'
    response: Any = client.chat.completions.create(
        model="tools/agent",
        messages=HELLO,
        tools=[BOOK],
        max_tokens=200,
        temperature=0,
        stream=stream,
        extra_body={"structured_outputs": {"regex": call}},
    )
    if stream:
        deltas = [call for chunk in response for call in chunk.choices[0].delta.tool_calls or []]
        name = "".join(delta.function.name or "" for delta in deltas)
        arguments = "".join(delta.function.arguments or "" for delta in deltas)
    else:
        assert response.choices[0].finish_reason == "tool_calls"
        [tool_call] = response.choices[0].message.tool_calls
        name, arguments = tool_call.function.name, tool_call.function.arguments
    assert (name, arguments) == ("book", '{"room": "blue"}')


def test_a_new_version_serves_the_next_request(live: LiveServer) -> None:
    client, agent = live.tenant("promotes"), InstanceName("promotes", "agent")
    first = live.publish(agent, 40)
    before = send_chat(client, "promotes/agent")
    second = live.publish(agent, 41)
    after = send_chat(client, "promotes/agent")
    assert (before[1], after[1]) == (first, second)
    assert before[0] != after[0]
    assert send_chat(client, f"promotes/agent@{first}") == before
    live.catalog.set_channel(agent, "prod", first)
    assert send_chat(client, "promotes/agent") == before


def test_a_revoked_key_and_a_skill_of_another_tenant_are_refused(live: LiveServer) -> None:
    client, other = live.tenant("revoked"), live.tenant("curious")
    live.publish(InstanceName("revoked", "agent"), 70)
    send_chat(client, "revoked/agent")
    with pytest.raises(openai.NotFoundError):
        send_chat(other, "revoked/agent")
    live.catalog.revoke_key(client.api_key.split("_")[1])
    with pytest.raises(openai.AuthenticationError):
        send_chat(client, "revoked/agent")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_disconnects_frees_the_engine(live: LiveServer, stream: bool) -> None:
    client = live.tenant("leaves")
    if not stream:
        live.publish(InstanceName("leaves", "agent"), 80)
    send_chat(client, "leaves/agent")
    endless: Any = {"model": "leaves/agent", "messages": HELLO, "max_tokens": 1900, "extra_body": {"ignore_eos": True}}

    def disconnect() -> None:
        if stream:
            response = client.chat.completions.create(**endless, stream=True)
            next(iter(response))
            response.close()
        else:
            with pytest.raises(openai.APITimeoutError):
                client.with_options(timeout=1).chat.completions.create(**endless)

    # They fill a batch. If they kept running, the next request would wait for the first of them to end.
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(disconnect) for _ in range(4)]:
            future.result()
    started = time.perf_counter()
    send_chat(client, "leaves/agent")
    assert time.perf_counter() - started < 5
