"""What ``/v1`` accepts and refuses before an engine is asked. ``test_boundaries`` sends the same to a real engine."""

import inspect
import json
import time
from contextlib import suppress
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from looper.serve.error_responses import RequestRefused
from looper.serve.protocol import Endpoint
from looper.serve.requests.checks import TEMPLATE_PARAMETERS, RequestLimits
from looper.serve.requests.fields import (
    FIELDS,
    MAX_ARGUMENT_BYTES,
    MAX_BODY_BYTES,
    MAX_DEPTH,
    MAX_MESSAGES,
    MAX_STRINGS,
    MAX_VALUES,
)
from looper.serve.requests.parser import ParsedRequest, parse_request
from looper.serve.requests.reference import write_reference
from tests.serve.requests.boundary_bodies import boundary_bodies
from tests.test_rooms import ROOT

LIMITS = RequestLimits(max_sequences=4, max_tokens=2048)
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
TEXT: dict[str, Any] = {"model": "m", "prompt": "hello"}


def parse(body: dict[str, Any] | bytes, endpoint: Endpoint | None = None) -> ParsedRequest:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse_request(endpoint or ("completions" if b'"prompt"' in content else "chat"), content, LIMITS)


def refusal(body: dict[str, Any] | bytes, endpoint: Endpoint | None = None) -> tuple[str | None, str]:
    """Return the field that the refusal names, and its message."""
    with pytest.raises(RequestRefused) as raised:
        parse(body, endpoint)
    assert raised.value.response.status == 400
    error = json.loads(raised.value.response.body)["error"]
    return error["param"], error["message"]


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


def schema(value: Any) -> dict[str, Any]:
    return CHAT | {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": value}}}


def tool_call(arguments: str) -> dict[str, Any]:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return CHAT | {"messages": [{"role": "assistant", "content": None, "tool_calls": [call]}]}


PART = {"type": "text", "text": "a"}
IMAGE = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/secret.png"}}


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("messages", {"model": "m", "messages": None}),
        ("messages", {"model": "m"}),
        ("messages", CHAT | {"messages": []}),
        ("messages", CHAT | {"messages": CHAT["messages"] * (MAX_MESSAGES + 1)}),
        ("messages", CHAT | {"messages": [{"role": "user", "content": [PART] * (MAX_MESSAGES // 2)}] * 2}),
        ("messages[0].role", CHAT | {"messages": [{}]}),
        ("messages[0].content[0].type", CHAT | {"messages": [{"role": "user", "content": [IMAGE]}]}),
        ("messages[0].audio", CHAT | {"messages": [{"role": "user", "audio": {"id": "1"}}]}),
        ("metadata", CHAT | {"metadata": nested(900)}),
        ("chat_template_kwargs.conversation", CHAT | {"chat_template_kwargs": {"conversation": []}}),
        ("chat_template", CHAT | {"chat_template": "{{ 1 }}"}),
        ("response_format.json_schema.schema", schema(nested(250))),
        ("response_format.json_schema.schema", schema(nested(MAX_DEPTH + 1))),
        ("response_format.json_schema.schema", schema({"$ref": "#"})),
        (
            "response_format.json_schema.schema",
            schema({"anyOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#"}}}),
        ),
        ("response_format.json_schema.schema", schema({"$ref": "http://127.0.0.1/schema"})),
        ("response_format.json_schema.schema", schema({"$ref": "#/$defs/missing"})),
        ("response_format.json_schema.schema", schema({"enum": list(range(MAX_VALUES))})),
        ("response_format.json_schema", CHAT | {"response_format": {"type": "json_schema"}}),
        ("structured_outputs", CHAT | {"structured_outputs": {"regex": "a", "choice": ["a"]}}),
        ("structured_outputs.json", CHAT | {"structured_outputs": {"json": "[" * 5000}}),
        ("messages[0].tool_calls[0].function.arguments", tool_call("[" * 10_000)),
        ("messages[0].tool_calls[0].function.arguments", tool_call("[" * 33 + "1" + "]" * 33)),
        ("messages[0].tool_calls[0].function.arguments", tool_call("1" * (MAX_ARGUMENT_BYTES + 1))),
        ("structured_outputs", CHAT | {"structured_outputs": {"json": "[" * 10_000}}),
        ("tool_choice", CHAT | {"tool_choice": "required"}),
        ("n", CHAT | {"n": 5}),
        ("n", CHAT | {"n": 5, "use_beam_search": True}),
        ("n", CHAT | {"n": 2**64}),
        ("n", TEXT | {"prompt": ["a"] * 2, "n": 3}),
        ("prompt", TEXT | {"prompt": ["a"] * 5}),
        ("prompt", TEXT | {"prompt": [[1]] * 5}),
        ("prompt", TEXT | {"prompt": [1] * 2049}),
        ("prompt", TEXT | {"prompt": [[1] * 2049]}),
        ("prompt[1]", TEXT | {"prompt": [1, "a"]}),
        ("prompt[1]", TEXT | {"prompt": ["a", [1]]}),
        ("prompt[0][0]", TEXT | {"prompt": [[2**31]]}),
        ("prompt_embeds", TEXT | {"prompt_embeds": "AAAA"}),
        ("priority", CHAT | {"priority": -5}),
        ("kv_transfer_params", CHAT | {"kv_transfer_params": {}}),
        ("mm_processor_kwargs", CHAT | {"mm_processor_kwargs": {}}),
        ("logit_bias", CHAT | {"logit_bias": {"a": 1}}),
        ("logit_bias", CHAT | {"logit_bias": {str(id): 1 for id in range(1025)}}),
        ("max_tokens", CHAT | {"max_tokens": 2049}),
    ],
)
def test_a_mistake_is_refused_and_named(field: str, body: dict[str, Any]) -> None:
    param, message = refusal(body)
    assert (param, message.startswith(f"{field}: ") or field == "model") == (field, True), message


def test_values_at_the_bounds_are_accepted() -> None:
    for body in (
        CHAT | {"messages": CHAT["messages"] * MAX_MESSAGES},
        CHAT | {"messages": [{"role": "user", "content": [PART] * (MAX_MESSAGES - 1)}]},
        schema(nested(MAX_DEPTH)),
        schema({"type": "object", "properties": {"child": {"$ref": "#"}}}),
        schema({"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}),
        tool_call("[" * 32 + "1" + "]" * 32),
        tool_call('"' + "[" * 5000 + '"'),
        tool_call("not JSON " + "[" * 100),
        tool_call("1" * MAX_ARGUMENT_BYTES),
        CHAT | {"n": 4},
        CHAT | {"logit_bias": {str(id): 1 for id in range(1024)}},
        CHAT | {"chat_template_kwargs": {"enable_thinking": False}},
        TEXT | {"prompt": [[1] * 2048] * 4},
        TEXT | {"prompt": "a" * (MAX_BODY_BYTES - 100)},
        TEXT | {"echo": True, "max_tokens": 0},
    ):
        parse(body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "not a JSON object"),
        (b'{"model":"m","messages":[{"role":"user","content":"\xff"}]}', "not a JSON object"),
        (b'{"model":"m","messages":[{"role":"user","content":"\\ud800"}]}', "not a JSON object"),
        (b'{"model":"m","n":NaN}', "not a JSON object"),
        (b'{"model":"m","metadata":' + b'{"a":' * 10_000, "metadata"),
        (b'{"model":"m","n":' + b"[" * 10_000, "n: expected"),
        (b"[" * 2**20, "not a JSON object"),
        (b'{"model":"m","stop":[' + b'"",' * (MAX_STRINGS + 1), "strings"),
    ],
)
def test_what_is_no_json_or_nests_too_deeply_is_refused(body: bytes, message: str) -> None:
    assert message in refusal(body, "chat")[1]


def test_the_last_of_two_equal_keys_counts_and_null_is_the_same_as_nothing() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"a"}],"n":1,"n":3,"seed":null,"user":"u","store":true}'
    parsed = parse(body)
    assert (parsed.num_seqs, parsed.model) == (3, "m")
    assert parsed.body == {"model": "m", "messages": [{"role": "user", "content": "a"}], "n": 3}


@pytest.mark.parametrize(
    ("sequences", "body"),
    [
        (1, CHAT),
        (3, CHAT | {"n": 3}),
        (3, CHAT | {"n": 3, "use_beam_search": True}),
        (2, TEXT | {"prompt": ["a", "b"]}),
        (1, TEXT | {"prompt": [1, 2, 3]}),
        (4, TEXT | {"prompt": [[1], [2]], "n": 2}),
    ],
)
def test_sequences_are_prompts_times_choices(sequences: int, body: dict[str, Any]) -> None:
    assert parse(body).num_seqs == sequences


def test_a_template_variable_cannot_replace_what_the_server_sets() -> None:
    parameters = inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters
    assert parameters.keys() - {"kwargs"} <= TEMPLATE_PARAMETERS


def test_every_body_at_the_bounds_is_accepted_or_refused_with_a_400() -> None:
    statuses = set()
    for endpoint in FIELDS:
        for _, body in boundary_bodies(endpoint):
            try:
                parse_request(endpoint, body.encode(errors="surrogatepass"), LIMITS)
                statuses.add(200)
            except RequestRefused as error:
                statuses.add(error.response.status)
    assert statuses == {200, 400}


def test_the_page_of_fields_is_what_the_tables_say() -> None:
    page = (ROOT / "docs" / "reference" / "requests.md").read_text()
    assert page == write_reference(), "python -m looper.serve.requests.reference > docs/reference/requests.md"


SIZE = MAX_BODY_BYTES - 300
WORST: dict[str, tuple[Endpoint, bytes]] = {
    "messages without anything": ("chat", b'{"model":"m","messages":[' + b"{}," * (SIZE // 3) + b"{}]}"),
    "lists of lists": ("completions", b'{"model":"m","prompt":[' + b"[]," * (SIZE // 3) + b"[]]}"),
    "a list in texts": ("completions", b'{"model":"m","prompt":["a",' + b"[]," * (SIZE // 3) + b"[]]}"),
    "token ids": ("completions", b'{"model":"m","prompt":[' + b"1," * (SIZE // 2) + b"1]}"),
    "the same key": (
        "chat",
        b'{"model":"m",' + b'"stop":1,' * 30_000 + b'"stop":[' + b"1," * (SIZE // 2 - 200_000) + b"1]}",
    ),
    "a long text": ("completions", b'{"model":"m","prompt":"' + b"a" * SIZE + b'"}'),
    "escapes": ("completions", b'{"model":"m","prompt":"' + b"\\u00e9" * (SIZE // 6) + b'"}'),
    "quotes": ("completions", b'{"model":"m","prompt":"' + b'\\"' * (SIZE // 2) + b'"}'),
    "references": (
        "chat",
        json.dumps(
            schema({"allOf": [{"$ref": "#/b"}] * ((MAX_VALUES - 50) // 2), "b": {}}), separators=(",", ":")
        ).encode(),
    ),
    "arguments": ("chat", json.dumps(tool_call("[]" * 8000 + "1," * 500_000)).encode()),
}


@pytest.mark.parametrize("name", WORST)
def test_the_worst_bodies_take_little_time(name: str) -> None:
    """The bound is ten times what it takes on a slow core, and a hundredth of what such bodies took before."""
    endpoint, body = WORST[name]
    assert len(body) <= MAX_BODY_BYTES
    times = []
    for _ in range(3):
        started_s = time.process_time()
        with suppress(RequestRefused):
            parse_request(endpoint, body, RequestLimits(16, 131_072))
        times.append(time.process_time() - started_s)
    print(f"{name}: {min(times) * 1000:.1f} ms")
    assert min(times) < 0.2
