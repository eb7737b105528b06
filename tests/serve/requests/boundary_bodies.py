"""Bodies with one field at its bounds, generated from the tables of fields that ``/v1`` accepts.

Bodies are JSON text, because some of them are not JSON.
"""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import inspect

from looper.serve.protocol import Endpoint
from looper.serve.requests.fields import FIELDS

DEEP = 10_000

HOSTILE = (
    *("0", "-1", "1", "0.5", "true", '""', '"a"', "[]", "{}", "null", "[null]", "[0]", '["a"]', "[[]]", '{"a":{}}'),
    *(str(2**31), str(2**63), str(2**64), str(-(2**63) - 1), "9" * 5000, "1e999", "NaN", "Infinity", "-Infinity"),
    *("[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP, '"\\ud800"', '"\\u0000"', '"\U0001f600"'),
)
"""JSON that any field may get."""

LONGEST_TEXT = 70_000
"""Texts that may be longer are not sent at their bound."""

MINIMAL: dict[Endpoint, dict[str, str]] = {
    "chat": {"model": '"tiny"', "messages": '[{"role":"user","content":"hello"}]', "max_tokens": "1"},
    "completions": {"model": '"tiny"', "prompt": '"hello"', "max_tokens": "1"},
}
"""The fields of a valid request, as JSON."""


def boundary_bodies(endpoint: Endpoint) -> Iterator[tuple[str, str]]:
    """Yield bodies for an endpoint.

    Args:
        endpoint: The endpoint.

    Yields:
        The field and the body.
    """
    for field, accepted in FIELDS[endpoint].items():
        for value in dict.fromkeys((*HOSTILE, *_at_bounds(inspect.type_info(accepted.type)))):
            yield field, _object(MINIMAL[endpoint] | _needed(field) | {field: value})
    yield "unknown", _object(MINIMAL[endpoint] | {"unknown": "1"})


def _needed(field: str) -> dict[str, str]:
    """Return fields that give another one its meaning, as JSON."""
    tools = '[{"type":"function","function":{"name":"a"}}]'
    needed = {
        "stream_options": {"stream": "true"},
        "top_logprobs": {"logprobs": "true"},
        "logprob_token_ids": {"logprobs": "1"},
        "length_penalty": {"use_beam_search": "true", "n": "2"},
        "use_beam_search": {"n": "2"},
        "n": {"temperature": "1"},
        "tool_choice": {"tools": tools},
        "continue_final_message": {"add_generation_prompt": "false"},
    }
    return needed.get(field, {})


def _object(fields: dict[str, str]) -> str:
    return "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in fields.items()) + "}"


def _at_bounds(kind: inspect.Type) -> Iterator[str]:
    """Yield JSON of a type: its bounds, and one past them."""
    match kind:
        case inspect.UnionType():
            for member in kind.types:
                yield from _at_bounds(member)
        case inspect.IntType() | inspect.FloatType():
            step = 1 if isinstance(kind, inspect.IntType) else 0.01
            for bound in (kind.ge, kind.gt, kind.le, kind.lt):
                if bound is not None:
                    yield from (json.dumps(value) for value in (bound - step, bound, bound + step))
        case inspect.StrType():
            for length in (kind.min_length, kind.max_length):
                if length is not None and length < LONGEST_TEXT:
                    yield from (json.dumps("1" * max(0, some)) for some in (length - 1, length, length + 1))
        case inspect.LiteralType():
            yield from (json.dumps(value) for value in kind.values)
        case inspect.ListType():
            yield from (f"[{item}]" for item in (*HOSTILE, *_at_bounds(kind.item_type)))
            if kind.max_length is not None and kind.max_length < LONGEST_TEXT:
                item = _example(kind.item_type)
                yield from ("[" + ",".join([item] * count) + "]" for count in (kind.max_length, kind.max_length + 1))
        case inspect.DictType():
            keys = (*(f"{2**power}" for power in (0, 31, 63)), "a", "", "-1", "__proto__", "conversation", "tokenize")
            yield from (f"{{{json.dumps(key)}:{_example(kind.value_type)}}}" for key in keys)
            yield from (f'{{"1":{value}}}' for value in _at_bounds(kind.value_type))
            if kind.max_length is not None:
                for count in (kind.max_length, kind.max_length + 1):
                    yield _object({f"{number}": _example(kind.value_type) for number in range(count)})
        case inspect.StructType():
            example = {field.name: _example(field.type) for field in kind.fields if field.required}
            for field in kind.fields:
                yield _object({name: value for name, value in example.items() if name != field.name})
                for value in dict.fromkeys((*HOSTILE, *_at_bounds(field.type))):
                    yield _object(example | {field.name: value})


def _example(kind: inspect.Type) -> str:
    """Return JSON of a type."""
    match kind:
        case inspect.UnionType():
            return _example(kind.types[0])
        case inspect.IntType():
            return json.dumps(max(kind.ge or 0, 0))
        case inspect.StrType():
            return json.dumps("1" * (kind.min_length or 0))
        case inspect.LiteralType():
            return json.dumps(kind.values[0])
        case inspect.ListType():
            return "[" + ",".join([_example(kind.item_type)] * (kind.min_length or 0)) + "]"
        case inspect.StructType():
            return _object({field.name: _example(field.type) for field in kind.fields if field.required})
        case inspect.DictType():
            return "{}"
    simple: dict[type, Any] = {inspect.FloatType: "1", inspect.BoolType: "true", inspect.NoneType: "null"}
    return simple.get(type(kind), "1")


def is_json(body: str) -> bool:
    """Tell whether a body is JSON at all."""
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return False
    return True
