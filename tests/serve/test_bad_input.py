"""Bad input against the real thing: each gets an error that says what is wrong, and the others are served meanwhile.

| what is wrong | tested in |
| --- | --- |
| unknown, malformed or path-like model names | here, test_gateway |
| a corrupt, oversized, wrong-base or wrong-rank adapter | here; test_adapters of the platform |
| a store that is slow, down or out of space | here, test_pager, test_disk; test_objectstore of the platform |
| prompts beyond the context, values that are none | here |
| token ids that the model does not know, numbers at their bounds | here |
| more answers at once than an engine gives | here, test_admission |
| bodies of 100 MB, or no JSON | here, test_gateway |
| thousands of idle connections | here |
"""

import json
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import openai
import psutil
import pytest
import torch
from safetensors.torch import save

from looper.platform.adapters import AdapterFiles
from looper.platform.domain.names import InstanceName
from looper.platform.objectstore import keys
from tests.serve.live import HELLO, Live, ask, processes
from tests.serve.marks import UNEMBEDDED
from tests.serve.published import adapter_files, publish_version, random_adapter


def loader() -> psutil.Process:
    """What brings adapters from the store to the disk of the one replica."""
    [process] = processes("ray::Loader")
    return process


@contextmanager
def nothing_is_fetched() -> Iterator[None]:
    loading = loader()
    loading.suspend()
    try:
        yield
    finally:
        loading.resume()


def weights_of(live: Live, tenant: str, digest: str) -> Path:
    return Path(live.store.url) / keys.adapter(tenant, digest, "adapter_model.safetensors")


def refusal(client: openai.OpenAI, model: str, *, stream: bool = False) -> tuple[int, str | None, str]:
    with pytest.raises(openai.APIStatusError) as raised:
        client.chat.completions.create(model=model, messages=HELLO, stream=stream)
    return raised.value.status_code, raised.value.code, str(raised.value)


def test_a_version_that_cannot_be_served_harms_no_other(live: Live) -> None:
    client = live.tenant("broken")
    live.publish(InstanceName("broken", "good"), 50)
    ask(client, "broken/good")

    def publish(name: str, files: AdapterFiles) -> str:
        return publish_version(live.catalog, live.store, InstanceName("broken", name), files)

    with nothing_is_fetched():
        corrupt = live.publish(InstanceName("broken", "corrupt"), 51)
        with weights_of(live, "broken", corrupt).open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"?")
        larger = live.publish(InstanceName("broken", "oversized"), 54)
        with weights_of(live, "broken", larger).open("r+b") as file:
            file.truncate(2**40)  # on disk, a hole
        missing = live.publish(InstanceName("broken", "missing"), 53)
        weights_of(live, "broken", missing).with_name("manifest.json").unlink()
    honest = random_adapter(live.base, InstanceName("broken", "lies"), 55, rank=16)
    foreign = live.base.parent / "foreign"
    foreign.mkdir()
    (foreign / "looper.json").write_text('{"revision": "another"}')
    unreadable = adapter_files(live.base, InstanceName("broken", "unreadable"), b"no tensors")
    versions = {
        "corrupt": ("corrupt_adapter", corrupt),
        "large": ("unservable_adapter", live.publish(InstanceName("broken", "large"), 52, rank=16)),
        "unreadable": ("unservable_adapter", publish("unreadable", unreadable)),
        "oversized": ("unservable_adapter", larger),
        "lies": (
            "unservable_adapter",
            publish("lies", adapter_files(live.base, InstanceName("broken", "lies"), honest.weights, rank=8)),
        ),
        "misfit": ("unservable_adapter", publish("misfit", misfit(live.base, InstanceName("broken", "misfit")))),
        "foreign": (
            "unservable_adapter",
            publish("foreign", adapter_files(foreign, InstanceName("broken", "foreign"), b"other base")),
        ),
        "missing": ("missing_adapter", missing),
    }

    with ThreadPoolExecutor(2) as pool:
        beside = pool.submit(lambda: [ask(client, "broken/good") for _ in range(5)])
        for name, (code, digest) in versions.items():
            for stream in (False, True):
                status, said, message = refusal(client, f"broken/{name}", stream=stream)
                assert (status, said) == (500, code)
                assert digest in message
        assert len(set(beside.result())) == 1


def misfit(base: Path, instance: InstanceName) -> AdapterFiles:
    """Trained on a base with wider layers, whatever its manifest says."""
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    factors = {f"{name}.lora_A.weight": torch.ones(8, 256), f"{name}.lora_B.weight": torch.ones(256, 8)}
    return adapter_files(base, instance, save(factors), modules=("q_proj",))


def test_numbers_that_are_none_harm_nobody_in_the_same_batch(live: Live) -> None:
    client, broken = live.tenant("nan"), InstanceName("nan", "broken")
    live.publish(InstanceName("nan", "good"), 56)
    expected = ask(client, "nan/good")
    name = "base_model.model.model.layers.0.self_attn.v_proj"
    factors = {f"{name}.lora_A.weight": torch.full((8, 128), torch.nan), f"{name}.lora_B.weight": torch.ones(64, 8)}
    publish_version(
        live.catalog, live.store, broken, adapter_files(live.base, broken, save(factors), modules=("v_proj",))
    )
    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(ask, client, "nan/good") for _ in range(8)]
        for temperature in (0, 1):
            ask(client, "nan/broken", temperature=temperature)
        assert {other.result() for other in others} == {expected}


def test_a_store_that_is_down_keeps_nobody_from_what_is_there(live: Live) -> None:
    client = live.tenant("outage")
    live.publish(InstanceName("outage", "warm"), 57)
    expected = ask(client, "outage/warm")
    with nothing_is_fetched():
        path = weights_of(live, "outage", live.publish(InstanceName("outage", "cold"), 58))
        path.rename(path.with_suffix(".kept"))
        path.mkdir()  # every read of the file fails
    for _ in range(2):
        status, code, message = refusal(client, "outage/cold")
        assert (status, code) == (503, "store_unavailable")
        assert live.store.url not in message
        assert ask(client, "outage/warm") == expected
    path.rmdir()
    path.with_suffix(".kept").rename(path)
    ask(client, "outage/cold")


def test_a_full_disk_keeps_nobody_from_what_is_there(live: Live) -> None:
    """A limit of the loader's files stands in for it: the kernel refuses the rest of a real write."""
    client = live.tenant("full")
    live.publish(InstanceName("full", "warm"), 59)
    expected = ask(client, "full/warm")
    loading = loader()
    before = loading.rlimit(psutil.RLIMIT_FSIZE)
    loading.rlimit(psutil.RLIMIT_FSIZE, (1000, before[1]))
    try:
        live.publish(InstanceName("full", "cold"), 61)
        assert refusal(client, "full/cold")[:2] == (503, "store_unavailable")
        assert ask(client, "full/warm") == expected
    finally:
        loading.rlimit(psutil.RLIMIT_FSIZE, before)
    ask(client, "full/cold")


def test_a_slow_store_keeps_nobody_from_what_is_there(live: Live) -> None:
    """As slow as can be: what fetches stands still. More wait for it than there are places in memory."""
    client = live.tenant("slow")
    live.publish(InstanceName("slow", "warm"), 62)
    expected = ask(client, "slow/warm")
    with ThreadPoolExecutor(6) as pool:
        with nothing_is_fetched():
            for seed in range(63, 69):
                live.publish(InstanceName("slow", f"cold-{seed}"), seed)
            cold = [pool.submit(ask, client, f"slow/cold-{seed}") for seed in range(63, 69)]
            for _ in range(10):
                assert ask(client, "slow/warm") == expected
            assert not any(request.done() for request in cold)
        assert len({request.result() for request in cold}) == 6


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


def test_numbers_are_checked_at_their_bounds_before_the_engine_sees_them(live: Live) -> None:
    client = live.tenant("numbers")
    expected = ask(client, "tiny")
    vocab_size = json.loads((live.base / "config.json").read_text())["vocab_size"]
    text: dict[str, Any] = {"prompt": "hello"}
    chat: dict[str, Any] = {"messages": HELLO}

    def bodies(token: int) -> list[tuple[str, dict[str, Any]]]:
        """Each place for a token's id, and its field."""
        fields: list[tuple[str, dict[str, Any]]] = [
            ("stop_token_ids", {"stop_token_ids": [1, token]}),
            ("allowed_token_ids", {"allowed_token_ids": [token]}),
            ("logit_bias", {"logit_bias": {str(token): 1.0}}),
        ]
        return [
            ("prompt", {"prompt": [token]}),
            ("prompt", {"prompt": [1, 2, token], "echo": True}),
            ("prompt", {"prompt": [[token]]}),
            ("prompt", {"prompt": [[1, 2], [3, token]]}),
            ("prompt", {"prompt": [[token]], "use_beam_search": True}),
            ("prompt", {"prompt": [[token]], "stream": True}),
            ("logprob_token_ids", text | {"logprobs": 1, "logprob_token_ids": [token]}),
            ("logprob_token_ids", chat | {"logprobs": True, "logprob_token_ids": [token]}),
            *((field, body | more) for field, more in fields for body in (text, chat)),
        ]

    def asked(body: dict[str, Any]) -> httpx.Response:
        path = "chat/completions" if "messages" in body else "completions"
        headers = {"authorization": f"Bearer {client.api_key}"}
        body = {"model": "tiny", "max_tokens": 1, **body}
        return httpx.post(f"{live.url}/v1/{path}", json=body, headers=headers, timeout=60)

    for _, body in bodies(vocab_size - 1):
        assert asked(body).status_code == 200, body
    wrong = [each for token in (-1, vocab_size, 2**31, 2**63, 2**64) for each in bodies(token)]
    wrong += [("logit_bias", text | {"logit_bias": {"1": value}}) for value in ("nan", "inf", "-inf")]
    whole = ("top_k", "min_tokens", "max_tokens", "stream_interval", "seed", "prompt_logprobs")
    wrong += [(field, chat | {field: value}) for field in whole for value in (2**63, 2**64)]
    numbers = ("temperature", "top_p", "min_p", "length_penalty", "repetition_penalty", "frequency_penalty")
    wrong += [(field, chat | {field: value}) for field in numbers for value in ("nan", "inf")]
    wrong += [("kv_transfer_params", chat | {"kv_transfer_params": {"prompt_token_ids": [vocab_size]}})]
    wrong += [("prompt", {"prompt": []})]
    beams = {"prompt": "hello", "use_beam_search": True, "n": 2}
    wrong += [("length_penalty", beams | {"length_penalty": value}) for value in (-10.1, 10.1, 1e308)]
    for bound in (
        *(beams | {"length_penalty": value} for value in (-10, 10)),
        *(text | {"temperature": 1, "seed": value} for value in (-(2**63), 2**63 - 1)),
        chat | {"temperature": 1, "top_k": 2**63 - 1},
    ):
        assert asked(bound).status_code == 200, bound
    for field, body in wrong:
        refused = asked(body)
        assert refused.status_code == 400, (body, refused.text)
        assert field in refused.json()["error"]["message"], (body, refused.text)
    assert ask(client, "tiny") == expected


@pytest.mark.parametrize("stream", [False, True])
def test_text_with_a_token_that_has_no_embedding_is_refused(live: Live, stream: bool) -> None:
    client = live.tenant("unembedded")
    expected = ask(client, "tiny")
    for text in (UNEMBEDDED, f"hello {UNEMBEDDED}"):
        with pytest.raises(openai.BadRequestError, match="does not know"):
            ask(client, "tiny", messages=[{"role": "user", "content": text}], stream=stream)
        with pytest.raises(openai.BadRequestError, match="does not know"):
            client.completions.create(model="tiny", prompt=text, stream=stream)
    assert ask(client, "tiny") == expected


def test_a_request_for_more_answers_than_an_engine_gives_at_once_is_refused(live: Live) -> None:
    client = live.tenant("choices")
    most = live.settings.serve.max_num_seqs
    hello: Any = {"model": "tiny", "max_tokens": 4, "temperature": 1}
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("n", {"prompt": "hello", "n": 128}),
        ("n", {"prompt": "hello", "n": most + 1}),
        ("n", {"prompt": "hello", "n": 2**64}),
        ("n", {"prompt": "hello", "n": 0}),
        ("n", {"prompt": "hello", "n": -1}),
        ("n", {"prompt": "hello", "n": most + 1, "extra_body": {"use_beam_search": True}}),
        ("n", {"prompt": ["hello"] * 2, "n": most}),
        ("prompt", {"prompt": ["hello"] * 128}),
        ("prompt", {"prompt": [[1, 2]] * (most + 1)}),
    ]
    for field, body in wrong:
        with pytest.raises(openai.BadRequestError) as raised:
            client.completions.create(**hello | body)
        assert raised.value.param == field, body
    with pytest.raises(openai.BadRequestError, match=f"{most} is the most"):
        ask(client, "tiny", temperature=1, n=128)
    for body in ({"prompt": "hello", "n": most}, {"prompt": ["hello"] * most}, {"prompt": [[1], [2]], "n": most // 2}):
        assert len(client.completions.create(**hello | body).choices) == most


def test_another_tenant_is_answered_beside_requests_for_many_answers(live: Live) -> None:
    client, other = live.tenant("many"), live.tenant("few")
    under_way = Event()

    def many() -> None:
        more: Any = {"n": live.settings.serve.max_num_seqs, "extra_body": {"ignore_eos": True}}
        answer = client.completions.create(model="tiny", prompt="hello", max_tokens=150, stream=True, **more)
        for number, _ in enumerate(answer):
            if number > 50:
                under_way.set()

    with ThreadPoolExecutor(2) as pool:
        crowd = [pool.submit(many) for _ in range(2)]
        assert under_way.wait(60)
        ask(other, "tiny")
        assert not any(each.done() for each in crowd)
        for each in crowd:
            each.result()


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
