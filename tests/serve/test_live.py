"""Skills through the real thing: Ray Serve, vLLM on CPU, and the official client over HTTP."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from looper.platform.adapters import AdapterFiles
from looper.platform.domain.names import InstanceName
from looper.platform.objectstore import keys
from tests.serve.live import Live
from tests.serve.published import adapter_files, publish_version, random_adapter

HELLO: Any = [{"role": "user", "content": "Please book the blue room."}]
BOOK: Any = {
    "type": "function",
    "function": {
        "name": "book",
        "parameters": {"type": "object", "properties": {"room": {"type": "string"}}, "required": ["room"]},
    },
}


def ask(client: openai.OpenAI, model: str, **more: Any) -> tuple[str, str]:
    """What ``model`` says, and the version that said it."""
    asked = {"max_tokens": 12, "temperature": 0, "messages": HELLO, **more}
    raw = client.chat.completions.with_raw_response.create(model=model, **asked)
    answer = raw.parse()
    assert answer.model == model
    return answer.choices[0].message.content or "", raw.headers.get("x-looper-version", "")


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
    assert ask(client, "tiny")[0] == base


def test_the_first_request_that_samples_waits_for_no_compiler(live: Live) -> None:
    client = live.tenant("samples")
    ask(client, "tiny")
    began = time.perf_counter()
    ask(client, "tiny", temperature=1)
    assert time.perf_counter() - began < 5


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
    call = '<tool_call>\n{"name": "book", "arguments": {"room": "blue"}}\n</tool_call>'
    answer: Any = client.chat.completions.create(
        model="tools/agent",
        messages=HELLO,
        tools=[BOOK],
        max_tokens=200,
        temperature=0,
        stream=stream,
        extra_body={"structured_outputs": {"choice": [call]}},
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


def test_a_version_that_cannot_be_served_harms_no_other(live: Live) -> None:
    client = live.tenant("broken")
    live.publish(InstanceName("broken", "good"), 50)
    corrupt = live.publish(InstanceName("broken", "corrupt"), 51)
    path = Path(live.store.url) / keys.adapter("broken", corrupt, "adapter_model.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)

    def publish(name: str, files: AdapterFiles) -> str:
        return publish_version(live.catalog, live.store, InstanceName("broken", name), files)

    foreign = live.base.parent / "foreign"
    foreign.mkdir()
    (foreign / "looper.json").write_text('{"revision": "another"}')
    unreadable = adapter_files(live.base, InstanceName("broken", "unreadable"), b"no tensors")
    versions = {
        "corrupt": ("corrupt_adapter", corrupt),
        "large": ("unservable_adapter", live.publish(InstanceName("broken", "large"), 52, rank=16)),
        "unreadable": ("unservable_adapter", publish("unreadable", unreadable)),
        "foreign": (
            "unservable_adapter",
            publish("foreign", adapter_files(foreign, InstanceName("broken", "foreign"), b"other base")),
        ),
    }
    missing = random_adapter(live.base, InstanceName("broken", "missing"), 53)
    versions["missing"] = ("missing_adapter", publish("missing", missing))
    (Path(live.store.url) / keys.adapter("broken", missing.digest, "manifest.json")).unlink()

    with ThreadPoolExecutor(2) as pool:
        beside = pool.submit(lambda: [ask(client, "broken/good") for _ in range(5)])
        for name, (code, digest) in versions.items():
            for stream in (False, True):
                with pytest.raises(openai.InternalServerError) as raised:
                    client.chat.completions.create(model=f"broken/{name}", messages=HELLO, stream=stream)
                assert raised.value.status_code == 500
                assert raised.value.code == code
                assert digest in str(raised.value)
        assert len(set(beside.result())) == 1


def test_what_the_client_got_wrong_is_a_400_of_vllm_s(live: Live) -> None:
    client = live.tenant("mistakes")
    live.publish(InstanceName("mistakes", "agent"), 60)
    wrong: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": "a " * 5000}]},
        {"messages": "hello"},
        {"messages": HELLO, "temperature": "hot"},
        {"messages": HELLO, "max_tokens": 10**6},
        {"messages": HELLO, "top_p": 7},
    ]
    for model in ("tiny", "mistakes/agent"):
        for request in wrong:
            with pytest.raises(openai.BadRequestError) as raised:
                client.chat.completions.create(model=model, **request)
            assert isinstance(raised.value.body, dict)
            assert {"message", "type"} <= raised.value.body.keys()


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


def test_who_floods_the_door_harms_no_other(live: Live) -> None:
    client, agent = live.tenant("floods"), InstanceName("floods", "agent")
    live.publish(agent, 90)
    expected = ask(client, "floods/agent")
    host, port = live.url.removeprefix("http://").split(":")
    idle = [socket.create_connection((host, int(port))) for _ in range(2000)]
    try:
        assert ask(client, "floods/agent") == expected
        headers = {"authorization": f"Bearer {client.api_key}", "content-type": "application/json"}
        content = (b"x" * 2**20 for _ in range(100))
        refused = httpx.post(f"{live.url}/v1/chat/completions", content=content, headers=headers, timeout=60)
        assert (refused.status_code, refused.json()["error"]["code"]) == (413, "request_too_large")
        for path in ("../../etc/passwd", "floods/../agent", "floods/agent@../x", "/", "\x00", "x" * 10_000):
            with pytest.raises(openai.NotFoundError):
                client.chat.completions.create(model=path, messages=HELLO)
        assert ask(client, "floods/agent") == expected
    finally:
        for connection in idle:
            connection.close()
