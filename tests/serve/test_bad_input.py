"""Bad input to a real server: it gets an error that says what is wrong, and other requests are served meanwhile.

| bad input | tested in |
| --- | --- |
| unknown, malformed or path-like model names | here, gateway/test_app |
| a corrupt, oversized, wrong-base or wrong-rank adapter | here; test_adapters of the platform |
| an object store that is slow, down or full | here, test_pager, test_disk; test_objectstore of the platform |
| prompts beyond the context, invalid values | here |
| token ids outside the vocabulary, numbers at their bounds | here |
| every field at its bounds, mistakes that vLLM does not expect | requests |
| more sequences than an engine runs | here, test_admission |
| bodies of 100 MB, or not JSON | here, gateway/test_app |
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
from tests.serve.live import HELLO, LiveServer, find_processes, send_chat
from tests.serve.marks import TOKEN_WITHOUT_EMBEDDING
from tests.serve.published import adapter_files, publish_version, random_adapter


def find_downloader() -> psutil.Process:
    """Return the process that downloads adapters to the disk of the only replica."""
    [process] = find_processes("ray::AdapterDownloader")
    return process


@contextmanager
def downloads_suspended() -> Iterator[None]:
    downloader = find_downloader()
    downloader.suspend()
    try:
        yield
    finally:
        downloader.resume()


def weights_path(live: LiveServer, tenant: str, digest: str) -> Path:
    return Path(live.store.url) / keys.adapter(tenant, digest, "adapter_model.safetensors")


def send_refused(client: openai.OpenAI, model: str, *, stream: bool = False) -> tuple[int, str | None, str]:
    with pytest.raises(openai.APIStatusError) as raised:
        client.chat.completions.create(model=model, messages=HELLO, stream=stream)
    return raised.value.status_code, raised.value.code, str(raised.value)


def test_an_unservable_version_does_not_affect_others(live: LiveServer) -> None:
    client = live.tenant("broken")
    live.publish(InstanceName("broken", "good"), 50)
    send_chat(client, "broken/good")

    def publish(name: str, files: AdapterFiles) -> str:
        return publish_version(live.catalog, live.store, InstanceName("broken", name), files)

    with downloads_suspended():
        corrupt = live.publish(InstanceName("broken", "corrupt"), 51)
        with weights_path(live, "broken", corrupt).open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"?")
        oversized = live.publish(InstanceName("broken", "oversized"), 54)
        with weights_path(live, "broken", oversized).open("r+b") as file:
            file.truncate(2**40)  # a sparse file
        missing = live.publish(InstanceName("broken", "missing"), 53)
        weights_path(live, "broken", missing).with_name("manifest.json").unlink()
    mislabeled = InstanceName("broken", "wrong-rank")
    rank_16 = random_adapter(live.base, mislabeled, 55, rank=16)
    foreign = live.base.parent / "foreign"
    foreign.mkdir()
    (foreign / "looper.json").write_text('{"revision": "another"}')
    unreadable = adapter_files(live.base, InstanceName("broken", "unreadable"), b"no tensors")
    versions = {
        "corrupt": ("corrupt_adapter", corrupt),
        "large": ("unservable_adapter", live.publish(InstanceName("broken", "large"), 52, rank=16)),
        "unreadable": ("unservable_adapter", publish("unreadable", unreadable)),
        "oversized": ("unservable_adapter", oversized),
        "wrong-rank": (
            "unservable_adapter",
            publish("wrong-rank", adapter_files(live.base, mislabeled, rank_16.weights, rank=8)),
        ),
        "wider": ("unservable_adapter", publish("wider", wider_adapter(live.base, InstanceName("broken", "wider")))),
        "foreign": (
            "unservable_adapter",
            publish("foreign", adapter_files(foreign, InstanceName("broken", "foreign"), b"other base")),
        ),
        "missing": ("missing_adapter", missing),
    }

    with ThreadPoolExecutor(2) as pool:
        concurrent = pool.submit(lambda: [send_chat(client, "broken/good") for _ in range(5)])
        for name, (code, digest) in versions.items():
            for stream in (False, True):
                status, error_code, message = send_refused(client, f"broken/{name}", stream=stream)
                assert (status, error_code) == (500, code)
                assert digest in message
        assert len(set(concurrent.result())) == 1


def wider_adapter(base: Path, instance: InstanceName) -> AdapterFiles:
    """Return an adapter of a base model with wider layers, whose manifest names the served base model."""
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    factors = {f"{name}.lora_A.weight": torch.ones(8, 256), f"{name}.lora_B.weight": torch.ones(256, 8)}
    return adapter_files(base, instance, save(factors), modules=("q_proj",))


def test_an_adapter_with_nan_does_not_affect_other_requests_in_the_batch(live: LiveServer) -> None:
    client, broken = live.tenant("nan"), InstanceName("nan", "broken")
    live.publish(InstanceName("nan", "good"), 56)
    expected = send_chat(client, "nan/good")
    name = "base_model.model.model.layers.0.self_attn.v_proj"
    factors = {f"{name}.lora_A.weight": torch.full((8, 128), torch.nan), f"{name}.lora_B.weight": torch.ones(64, 8)}
    publish_version(
        live.catalog, live.store, broken, adapter_files(live.base, broken, save(factors), modules=("v_proj",))
    )
    with ThreadPoolExecutor(4) as pool:
        other_requests = [pool.submit(send_chat, client, "nan/good") for _ in range(8)]
        for temperature in (0, 1):
            send_chat(client, "nan/broken", temperature=temperature)
        assert {request.result() for request in other_requests} == {expected}


def test_loaded_adapters_are_served_while_the_store_is_down(live: LiveServer) -> None:
    client = live.tenant("outage")
    live.publish(InstanceName("outage", "warm"), 57)
    expected = send_chat(client, "outage/warm")
    with downloads_suspended():
        path = weights_path(live, "outage", live.publish(InstanceName("outage", "cold"), 58))
        path.rename(path.with_suffix(".kept"))
        path.mkdir()  # every read of the file fails
    for _ in range(2):
        status, code, message = send_refused(client, "outage/cold")
        assert (status, code) == (503, "store_unavailable")
        assert live.store.url not in message
        assert send_chat(client, "outage/warm") == expected
    path.rmdir()
    path.with_suffix(".kept").rename(path)
    send_chat(client, "outage/cold")


def test_loaded_adapters_are_served_while_the_disk_is_full(live: LiveServer) -> None:
    """A file size limit of the downloader simulates the full disk: the kernel refuses the rest of a real write."""
    client = live.tenant("full")
    live.publish(InstanceName("full", "warm"), 59)
    expected = send_chat(client, "full/warm")
    downloader = find_downloader()
    before = downloader.rlimit(psutil.RLIMIT_FSIZE)
    downloader.rlimit(psutil.RLIMIT_FSIZE, (1000, before[1]))
    try:
        live.publish(InstanceName("full", "cold"), 61)
        assert send_refused(client, "full/cold")[:2] == (503, "store_unavailable")
        assert send_chat(client, "full/warm") == expected
    finally:
        downloader.rlimit(psutil.RLIMIT_FSIZE, before)
    send_chat(client, "full/cold")


def test_loaded_adapters_are_served_while_the_store_is_slow(live: LiveServer) -> None:
    """The downloader is suspended, and more adapters wait for it than host memory holds."""
    client = live.tenant("slow")
    live.publish(InstanceName("slow", "warm"), 62)
    expected = send_chat(client, "slow/warm")
    with ThreadPoolExecutor(6) as pool:
        with downloads_suspended():
            for seed in range(63, 69):
                live.publish(InstanceName("slow", f"cold-{seed}"), seed)
            cold = [pool.submit(send_chat, client, f"slow/cold-{seed}") for seed in range(63, 69)]
            for _ in range(10):
                assert send_chat(client, "slow/warm") == expected
            assert not any(request.done() for request in cold)
        assert len({request.result() for request in cold}) == 6


def test_mistakes_of_the_client_get_a_400(live: LiveServer) -> None:
    client = live.tenant("mistakes")
    live.publish(InstanceName("mistakes", "agent"), 60)
    mistakes: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": "a " * 5000}]},
        {"messages": "hello"},
        {"messages": HELLO, "temperature": "hot"},
        {"messages": HELLO, "max_tokens": 10**6},
        {"messages": HELLO, "top_p": 7},
    ]
    for model in ("tiny", "mistakes/agent"):
        for request in mistakes:
            with pytest.raises(openai.BadRequestError) as raised:
                client.chat.completions.create(model=model, **request)
            assert isinstance(raised.value.body, dict)
            assert {"message", "type"} <= raised.value.body.keys()


def test_numbers_are_checked_at_their_bounds_before_the_engine_sees_them(live: LiveServer) -> None:
    client = live.tenant("numbers")
    expected = send_chat(client, "tiny")
    vocab_size = json.loads((live.base / "config.json").read_text())["vocab_size"]
    text: dict[str, Any] = {"prompt": "hello"}
    chat: dict[str, Any] = {"messages": HELLO}

    def bodies(token: int) -> list[tuple[str, dict[str, Any]]]:
        """Return each field for a token id, with a body that has ``token`` there."""
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

    def send(body: dict[str, Any]) -> httpx.Response:
        path = "chat/completions" if "messages" in body else "completions"
        headers = {"authorization": f"Bearer {client.api_key}"}
        body = {"model": "tiny", "max_tokens": 1, **body}
        return httpx.post(f"{live.url}/v1/{path}", json=body, headers=headers, timeout=60)

    for _, body in bodies(vocab_size - 1):
        assert send(body).status_code == 200, body
    wrong = [bad for token in (-1, vocab_size, 2**31, 2**63, 2**64) for bad in bodies(token)]
    wrong += [("logit_bias", text | {"logit_bias": {"1": value}}) for value in ("nan", "inf", "-inf")]
    integers = ("top_k", "min_tokens", "max_tokens", "stream_interval", "seed", "prompt_logprobs")
    wrong += [(field, chat | {field: value}) for field in integers for value in (2**63, 2**64)]
    numbers = ("temperature", "top_p", "min_p", "length_penalty", "repetition_penalty", "frequency_penalty")
    wrong += [(field, chat | {field: value}) for field in numbers for value in ("nan", "inf")]
    wrong += [("kv_transfer_params", chat | {"kv_transfer_params": {"prompt_token_ids": [vocab_size]}})]
    wrong += [("prompt", {"prompt": []})]
    beams = {"prompt": "hello", "use_beam_search": True, "n": 2}
    wrong += [("length_penalty", beams | {"length_penalty": value}) for value in (-10.1, 10.1, 1e308)]
    for bound in (
        *(beams | {"length_penalty": value} for value in (-10, 10)),
        *(text | {"temperature": 1, "seed": value} for value in (-(2**63), 2**63 - 1)),
        chat | {"temperature": 1, "top_k": 2**31 - 1},
    ):
        assert send(bound).status_code == 200, bound
    for field, body in wrong:
        refused = send(body)
        assert refused.status_code == 400, (body, refused.text)
        assert field in refused.json()["error"]["message"], (body, refused.text)
    assert send_chat(client, "tiny") == expected


@pytest.mark.parametrize("stream", [False, True])
def test_text_with_a_token_that_has_no_embedding_is_refused(live: LiveServer, stream: bool) -> None:
    client = live.tenant("unembedded")
    expected = send_chat(client, "tiny")
    for text in (TOKEN_WITHOUT_EMBEDDING, f"hello {TOKEN_WITHOUT_EMBEDDING}"):
        with pytest.raises(openai.BadRequestError, match="not in the vocabulary"):
            send_chat(client, "tiny", messages=[{"role": "user", "content": text}], stream=stream)
        with pytest.raises(openai.BadRequestError, match="not in the vocabulary"):
            client.completions.create(model="tiny", prompt=text, stream=stream)
    assert send_chat(client, "tiny") == expected


def test_a_request_for_more_sequences_than_an_engine_runs_is_refused(live: LiveServer) -> None:
    client = live.tenant("choices")
    max_num_seqs = live.settings.serve.seats
    hello: Any = {"model": "tiny", "max_tokens": 4, "temperature": 1}
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("n", {"prompt": "hello", "n": 128}),
        ("n", {"prompt": "hello", "n": max_num_seqs + 1}),
        ("n", {"prompt": "hello", "n": 2**64}),
        ("n", {"prompt": "hello", "n": 0}),
        ("n", {"prompt": "hello", "n": -1}),
        ("n", {"prompt": "hello", "n": max_num_seqs + 1, "extra_body": {"use_beam_search": True}}),
        ("n", {"prompt": ["hello"] * 2, "n": max_num_seqs}),
        ("prompt", {"prompt": ["hello"] * 128}),
        ("prompt", {"prompt": [[1, 2]] * (max_num_seqs + 1)}),
    ]
    for field, body in wrong:
        with pytest.raises(openai.BadRequestError) as raised:
            client.completions.create(**hello | body)
        assert raised.value.param == field, body
    with pytest.raises(openai.BadRequestError, match=f"the maximum is {max_num_seqs}"):
        send_chat(client, "tiny", temperature=1, n=128)
    for body in (
        {"prompt": "hello", "n": max_num_seqs},
        {"prompt": ["hello"] * max_num_seqs},
        {"prompt": [[1], [2]], "n": max_num_seqs // 2},
    ):
        assert len(client.completions.create(**hello | body).choices) == max_num_seqs


def test_a_tenant_with_many_sequences_does_not_block_another(live: LiveServer) -> None:
    client, other = live.tenant("many"), live.tenant("few")
    started = Event()

    def send_many() -> None:
        more: Any = {"n": live.settings.serve.seats, "extra_body": {"ignore_eos": True}}
        stream = client.completions.create(model="tiny", prompt="hello", max_tokens=150, stream=True, **more)
        for number, _ in enumerate(stream):
            if number > 50:
                started.set()

    with ThreadPoolExecutor(2) as pool:
        requests = [pool.submit(send_many) for _ in range(2)]
        assert started.wait(60)
        send_chat(other, "tiny")
        assert not any(request.done() for request in requests)
        for request in requests:
            request.result()


def test_idle_connections_and_huge_bodies_do_not_affect_others(live: LiveServer) -> None:
    client, agent = live.tenant("floods"), InstanceName("floods", "agent")
    live.publish(agent, 90)
    expected = send_chat(client, "floods/agent")
    host, port = live.url.removeprefix("http://").split(":")
    idle = [socket.create_connection((host, int(port))) for _ in range(2000)]
    try:
        assert send_chat(client, "floods/agent") == expected
        headers = {"authorization": f"Bearer {client.api_key}", "content-type": "application/json"}
        content = (b"x" * 2**20 for _ in range(100))
        refused = httpx.post(f"{live.url}/v1/chat/completions", content=content, headers=headers, timeout=60)
        assert (refused.status_code, refused.json()["error"]["code"]) == (413, "request_too_large")
        for path in ("../../etc/passwd", "floods/../agent", "floods/agent@../x", "/", "\x00", "x" * 1000):
            with pytest.raises(openai.NotFoundError):
                client.chat.completions.create(model=path, messages=HELLO)
        assert send_chat(client, "floods/agent") == expected
    finally:
        for connection in idle:
            connection.close()
