"""Skills through the real thing: Ray Serve, vLLM on CPU, and the official client over HTTP."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from looper.platform.domain.names import InstanceName
from tests.serve.live import HELLO, Live, ask

BOOK: Any = {
    "type": "function",
    "function": {
        "name": "book",
        "parameters": {"type": "object", "properties": {"room": {"type": "string"}}, "required": ["room"]},
    },
}


def test_cold_skills_come_at_once_and_each_says_its_own(live: Live) -> None:
    client = live.tenant("cold")
    instances = [InstanceName("cold", f"agent-{number}") for number in range(4)]
    digests = [live.publish(instance, seed) for seed, instance in enumerate(instances)]
    base, version = ask(client, "tiny")
    assert version == ""
    with ThreadPoolExecutor(4) as pool:
        cold = list(pool.map(lambda instance: ask(client, str(instance)), instances))
    assert [version for _, version in cold] == digests
    assert len({base, *(text for text, _ in cold)}) == 5
    # Two more push others off the local disk (it holds six); those come back when they are asked for.
    for seed in (10, 11, 12):
        live.publish(InstanceName("cold", f"agent-{seed}"), seed)
        ask(client, f"cold/agent-{seed}")
    assert [ask(client, str(instance)) for instance in instances] == cold
    assert ask(client, "tiny")[0] not in {text for text, _ in cold}


def test_the_first_request_that_samples_waits_for_no_compiler(live: Live) -> None:
    client = live.tenant("samples")
    ask(client, "tiny")
    began = time.perf_counter()
    ask(client, "tiny", temperature=1)
    assert time.perf_counter() - began < 5


def test_a_seed_means_the_same_however_many_steps_read_the_prompt(live: Live) -> None:
    client = live.tenant("seeds")
    long = [{"role": "user", "content": "Please book the blue room. " * 20}]

    def say(seed: int, salt: str) -> str:
        more: Any = {"messages": long, "seed": seed, "temperature": 1, "extra_body": {"cache_salt": salt}}
        return ask(client, "tiny", **more)[0]

    first = say(7, "a")
    assert say(7, "b") == first, "read in steps again"
    assert say(7, "a") == first, "most of it came from the cache"
    assert say(8, "a") != first


def test_a_tenant_finds_its_own_prompts_in_the_cache_and_no_other_s(live: Live) -> None:
    one, other = live.tenant("cached"), live.tenant("looks")
    long: Any = [{"role": "user", "content": "Which rooms are free? " * 20}]

    def cached(client: openai.OpenAI, **more: Any) -> int:
        answer = client.chat.completions.create(model="tiny", messages=long, max_tokens=1, extra_body=more)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        return answer.usage.prompt_tokens_details.cached_tokens or 0

    assert cached(one) == 0
    assert cached(one) > 0
    assert cached(other) == 0
    # A salt of the client's divides what is its tenant's.
    assert cached(one, cache_salt="mine") == 0
    assert cached(one, cache_salt="mine") > 0
    assert cached(other, cache_salt="mine") == 0


def test_streams_and_completions(live: Live) -> None:
    client = live.tenant("streams")
    live.publish(InstanceName("streams", "agent"), 20)
    whole, _ = ask(client, "streams/agent")
    chunks = list(
        client.chat.completions.create(model="streams/agent", messages=HELLO, max_tokens=12, temperature=0, stream=True)
    )
    assert {chunk.model for chunk in chunks} == {"streams/agent"}
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole
    completion = client.completions.create(model="streams/agent", prompt="hello", max_tokens=4)
    assert completion.model == "streams/agent"
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 4


@pytest.mark.parametrize("stream", [False, True])
def test_tool_calls_are_parsed(live: Live, stream: bool) -> None:
    client = live.tenant("tools")
    if not stream:
        live.publish(InstanceName("tools", "agent"), 30)
    # A random model calls no tool by itself, so its tokens are constrained to a call; the parsing is vLLM's.
    call = r'<tool_call>\n\{"name": "book", "arguments": \{"room": "blue"\}\}\n</tool_call>'
    answer: Any = client.chat.completions.create(
        model="tools/agent",
        messages=HELLO,
        tools=[BOOK],
        max_tokens=200,
        temperature=0,
        stream=stream,
        extra_body={"structured_outputs": {"regex": call}},
    )
    if stream:
        deltas = [call for chunk in answer for call in chunk.choices[0].delta.tool_calls or []]
        name = "".join(delta.function.name or "" for delta in deltas)
        arguments = "".join(delta.function.arguments or "" for delta in deltas)
    else:
        assert answer.choices[0].finish_reason == "tool_calls"
        [made] = answer.choices[0].message.tool_calls
        name, arguments = made.function.name, made.function.arguments
    assert (name, arguments) == ("book", '{"room": "blue"}')


def test_a_new_version_answers_the_next_request(live: Live) -> None:
    client, agent = live.tenant("promotes"), InstanceName("promotes", "agent")
    first = live.publish(agent, 40)
    before = ask(client, "promotes/agent")
    second = live.publish(agent, 41)
    after = ask(client, "promotes/agent")
    assert (before[1], after[1]) == (first, second)
    assert before[0] != after[0]
    assert ask(client, f"promotes/agent@{first}") == before
    live.catalog.point(agent, "prod", first)
    assert ask(client, "promotes/agent") == before


def test_a_revoked_key_and_another_tenant_s_skill(live: Live) -> None:
    client, other = live.tenant("revoked"), live.tenant("curious")
    live.publish(InstanceName("revoked", "agent"), 70)
    ask(client, "revoked/agent")
    with pytest.raises(openai.NotFoundError):
        ask(other, "revoked/agent")
    live.catalog.revoke_key(client.api_key.split("_")[1])
    with pytest.raises(openai.AuthenticationError):
        ask(client, "revoked/agent")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_the_engine(live: Live, stream: bool) -> None:
    client = live.tenant("leaves")
    if not stream:
        live.publish(InstanceName("leaves", "agent"), 80)
    ask(client, "leaves/agent")
    endless: Any = {"model": "leaves/agent", "messages": HELLO, "max_tokens": 1900, "extra_body": {"ignore_eos": True}}

    def leave() -> None:
        if stream:
            answer = client.chat.completions.create(**endless, stream=True)
            next(iter(answer))
            answer.close()
        else:
            with pytest.raises(openai.APITimeoutError):
                client.with_options(timeout=1).chat.completions.create(**endless)

    # As many as one batch takes: were they to run on, the next request would wait for the first of them to end.
    with ThreadPoolExecutor(4) as pool:
        for left in [pool.submit(leave) for _ in range(4)]:
            left.result()
    began = time.perf_counter()
    ask(client, "leaves/agent")
    assert time.perf_counter() - began < 5
