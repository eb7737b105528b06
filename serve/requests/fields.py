"""The fields that ``/v1/chat/completions`` and ``/v1/completions`` accept, with the bounds of each.

``parser`` builds its decoders from these tables, and ``reference`` the page of the documentation. A field that is in no
table is refused by name: vLLM has more fields, and some of them are dangerous to other tenants. The limits that depend
on the cluster (sequences, tokens, the vocabulary) are checked in ``checks`` and in ``engine/request_bounds``.

A field that is null is the same as a field that is absent.
"""

from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, Literal

from msgspec import Meta, defstruct

from looper.serve.protocol import Endpoint

KIB = 2**10

MAX_BODY_BYTES = 2 * 2**20
"""Maximum size of a request body, in bytes. That is half a million tokens of text, and 20 ms for the worst to parse."""

MAX_STRINGS = 2**15
"""Maximum number of strings in a body, keys included. Strings cost most of the time of parsing."""

MAX_MESSAGES = 2048
"""Maximum number of messages of a chat, as in OpenAI's API, with their parts and tool calls.

vLLM reads them one by one on its event loop, in 10 to 20 microseconds each.
"""

MAX_TOKEN_ID = 2**31 - 1
"""Token ids are 32-bit in vLLM. The engine checks them against the vocabulary."""

MAX_PROMPT_IDS = 2**19
"""Maximum number of token ids of all prompts of a request."""

MAX_TOKENS = 2**24
"""Maximum of every field that is a number of tokens. The context of the model is below it."""

MAX_DEPTH = 32
"""Maximum depth of a JSON schema and of everything else that a request may nest freely."""

MAX_VALUES = 2**13
"""Maximum number of objects, arrays and other values in what a request may nest freely, all of it together."""

MAX_ARGUMENT_BYTES = 2**20
"""Maximum size of the arguments of all tool calls in the messages. vLLM parses them on its event loop."""


@dataclass(frozen=True)
class RequestField:
    """One field of a request."""

    type: Any
    """What msgspec decodes it to, with its bounds."""
    max_bytes: int = 256
    """Maximum size of its JSON, in bytes. It is checked before anything is decoded."""
    is_passed_on: bool = True
    """False: OpenAI's clients send it, and it has no effect here."""
    is_required: bool = False
    """Whether a request must have it."""


def _integer(smallest: int, largest: int) -> Any:
    return Annotated[int, Meta(ge=smallest, le=largest)]


def _number(smallest: float, largest: float) -> Any:
    return Annotated[float, Meta(ge=smallest, le=largest)]


def _text(longest: int, shortest: int = 0, pattern: str | None = None) -> Any:
    return Annotated[str, Meta(min_length=shortest, max_length=longest, pattern=pattern)]


def _items(item: Any, most: int, fewest: int = 0) -> Any:
    return Annotated[list[item], Meta(min_length=fewest, max_length=most)]


def _entries(key: Any, value: Any, most: int, fewest: int = 0) -> Any:
    return Annotated[dict[key, value], Meta(min_length=fewest, max_length=most)]


def _object(title: str, /, *required: tuple[str, Any], **optional: Any) -> Any:
    fields: list[Any] = [*required, *((field, type | None, None) for field, type in optional.items())]
    return defstruct(title, fields, kw_only=True, forbid_unknown_fields=True, omit_defaults=True)


TOKEN_ID = _integer(0, MAX_TOKEN_ID)
NAME = _text(128, 1, r"^[a-zA-Z0-9_.:-]+\Z")
FREE_OBJECT = dict[str, Any]
"""Nested freely. ``checks`` bounds its depth."""

JSON_SCHEMA = _object("JsonSchema", ("name", _text(128, 1)), description=_text(4096), schema=FREE_OBJECT, strict=bool)
RESPONSE_FORMAT = _object(
    "ResponseFormat",
    ("type", Literal["text", "json_object", "json_schema", "structural_tag"]),
    json_schema=JSON_SCHEMA,
    format=FREE_OBJECT,
    structures=_items(FREE_OBJECT, 128),
    triggers=_items(_text(128, 1), 128),
)
STRUCTURED_OUTPUTS = _object(
    "StructuredOutputs",
    json=_text(64 * KIB, 1) | FREE_OBJECT,
    regex=_text(8 * KIB, 1),
    choice=_items(_text(1024, 1), 1024, 1),
    grammar=_text(64 * KIB, 1),
    json_object=bool,
    structural_tag=_text(64 * KIB, 1),
    disable_any_whitespace=bool,
    disable_additional_properties=bool,
    whitespace_pattern=_text(128, 1),
)

COMMON_FIELDS: dict[str, RequestField] = {
    "model": RequestField(_text(1024, 1), 8 * KIB, is_required=True),
    "n": RequestField(_integer(1, 1024)),
    "stream": RequestField(bool),
    "stream_options": RequestField(
        _object("StreamOptions", include_usage=bool, continuous_usage_stats=bool, include_obfuscation=bool)
    ),
    "stream_interval": RequestField(_integer(1, 1024)),
    "max_tokens": RequestField(_integer(1, MAX_TOKENS)),
    "min_tokens": RequestField(_integer(0, MAX_TOKENS)),
    "temperature": RequestField(_number(0, 2)),
    "top_p": RequestField(Annotated[float, Meta(gt=0, le=1)]),
    "top_k": RequestField(_integer(-1, MAX_TOKEN_ID)),
    "min_p": RequestField(_number(0, 1)),
    "seed": RequestField(_integer(-(2**63), 2**63 - 1)),
    "frequency_penalty": RequestField(_number(-2, 2)),
    "presence_penalty": RequestField(_number(-2, 2)),
    "repetition_penalty": RequestField(_number(0.01, 10)),
    "use_beam_search": RequestField(bool),
    # vLLM raises a length to this power: 52 overflows at 10**6 tokens.
    "length_penalty": RequestField(_number(-10, 10)),
    "stop": RequestField(_text(1024, 1) | _items(_text(1024, 1), 4), 32 * KIB),
    "stop_token_ids": RequestField(_items(TOKEN_ID, 1024), 16 * KIB),
    "include_stop_str_in_output": RequestField(bool),
    "ignore_eos": RequestField(bool),
    "logit_bias": RequestField(_entries(_text(10, 1, r"^[0-9]+\Z"), _number(-100, 100), 1024), 32 * KIB),
    "allowed_token_ids": RequestField(_items(TOKEN_ID, 16 * KIB, 1), 256 * KIB),
    "bad_words": RequestField(_items(_text(256, 1), 128), 64 * KIB),
    "prompt_logprobs": RequestField(_integer(0, 20)),
    "logprob_token_ids": RequestField(_items(TOKEN_ID, 128), 4 * KIB),
    "echo": RequestField(bool),
    "response_format": RequestField(RESPONSE_FORMAT, 64 * KIB),
    "structured_outputs": RequestField(STRUCTURED_OUTPUTS, 128 * KIB),
    "truncate_prompt_tokens": RequestField(_integer(-1, MAX_TOKENS)),
    "truncation_side": RequestField(Literal["left", "right"]),
    "add_special_tokens": RequestField(bool),
    "skip_special_tokens": RequestField(bool),
    "spaces_between_special_tokens": RequestField(bool),
    "return_token_ids": RequestField(bool),
    "return_tokens_as_token_ids": RequestField(bool),
    "cache_salt": RequestField(_text(1024, 1), 8 * KIB),
    "user": RequestField(_text(1024), 8 * KIB, is_passed_on=False),
}
"""Fields of both endpoints."""

_TOOL = _object(
    "Tool",
    ("type", Literal["function"]),
    ("function", _object("Function", ("name", NAME), description=_text(32 * KIB), parameters=FREE_OBJECT, strict=bool)),
)
_TOOL_CALL = _object(
    "ToolCall",
    ("function", _object("FunctionCall", ("name", NAME), arguments=_text(MAX_ARGUMENT_BYTES))),
    id=_text(256),
    type=Literal["function"],
    index=_integer(0, 127),
)
_PART = _object("Part", ("type", Literal["text", "refusal"]), text=str, refusal=str)
_MESSAGE = _object(
    "Message",
    ("role", Literal["system", "developer", "user", "assistant", "tool", "function"]),
    content=str | _items(_PART, MAX_MESSAGES),
    name=_text(256),
    tool_calls=_items(_TOOL_CALL, 128),
    tool_call_id=_text(256),
    reasoning=str,
    reasoning_content=str,
    # A client that sends an earlier response back sends these too. They have no effect.
    refusal=str,
    annotations=_items(str, 0),
    audio=NoneType,
    function_call=NoneType,
)
_TEMPLATE_VALUE = bool | _integer(-(2**31), 2**31 - 1) | float | _text(4 * KIB) | _items(_text(256), 64) | None

CHAT_FIELDS: dict[str, RequestField] = {
    "messages": RequestField(_items(_MESSAGE, MAX_MESSAGES, 1), MAX_BODY_BYTES, is_required=True),
    **COMMON_FIELDS,
    "max_completion_tokens": RequestField(_integer(1, MAX_TOKENS)),
    "logprobs": RequestField(bool),
    "top_logprobs": RequestField(_integer(0, 20)),
    "tools": RequestField(_items(_TOOL, 128, 1), 256 * KIB),
    "tool_choice": RequestField(
        Literal["none", "auto", "required"]
        | _object("ToolChoice", ("type", Literal["function"]), ("function", _object("NamedTool", ("name", NAME)))),
        KIB,
    ),
    "parallel_tool_calls": RequestField(bool),
    "reasoning_effort": RequestField(Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]),
    "include_reasoning": RequestField(bool),
    "add_generation_prompt": RequestField(bool),
    "continue_final_message": RequestField(bool),
    "documents": RequestField(_items(_entries(_text(64), str, 16, 1), 256), MAX_BODY_BYTES),
    "chat_template_kwargs": RequestField(
        _entries(_text(64, 1, r"^[a-zA-Z_][a-zA-Z0-9_]*\Z"), _TEMPLATE_VALUE, 32), 64 * KIB
    ),
    "return_prompt_text": RequestField(bool),
    "metadata": RequestField(_entries(_text(64), _text(512), 16), 64 * KIB, is_passed_on=False),
    "modalities": RequestField(_items(Literal["text"], 1), is_passed_on=False),
    "prompt_cache_key": RequestField(_text(1024), 8 * KIB, is_passed_on=False),
    "prompt_cache_retention": RequestField(_text(64), is_passed_on=False),
    "safety_identifier": RequestField(_text(1024), 8 * KIB, is_passed_on=False),
    "service_tier": RequestField(_text(64), is_passed_on=False),
    "store": RequestField(bool, is_passed_on=False),
    "verbosity": RequestField(Literal["low", "medium", "high"], is_passed_on=False),
}
"""Fields of ``/v1/chat/completions``."""

COMPLETION_FIELDS: dict[str, RequestField] = {
    "prompt": RequestField(
        _text(MAX_BODY_BYTES, 1) | Annotated[list[int | str | list[int]], Meta(min_length=1, max_length=MAX_TOKENS)],
        MAX_BODY_BYTES,
        is_required=True,
    ),
    **COMMON_FIELDS,
    "max_tokens": RequestField(_integer(0, MAX_TOKENS)),
    "logprobs": RequestField(_integer(0, 20)),
    "best_of": RequestField(Literal[1], is_passed_on=False),
    "suffix": RequestField(NoneType, is_passed_on=False),
}
"""Fields of ``/v1/completions``."""

PROMPT_TYPES: dict[str, Any] = {
    '"': _items(_text(MAX_BODY_BYTES, 1), 1024, 1),
    "[": _items(_items(TOKEN_ID, MAX_TOKENS, 1), 1024, 1),
    "": _items(TOKEN_ID, MAX_TOKENS, 1),
}
"""Types of a prompt that is an array, by the first character of the first item. The last is for all others."""

FIELDS: dict[Endpoint, dict[str, RequestField]] = {"chat": CHAT_FIELDS, "completions": COMPLETION_FIELDS}
"""The fields of each endpoint."""

FREE_FIELDS = {"tools", "response_format", "structured_outputs"}
"""Fields that nest freely somewhere."""

REFUSED = {
    "audio": "this model writes text only",
    "chat_template": "the template of the base model is used",
    "ec_transfer_params": "it is reserved for traffic between engines",
    "function_call": "use tool_choice",
    "functions": "use tools",
    "kv_transfer_params": "it is reserved for traffic between engines",
    "media_io_kwargs": "this model reads text only",
    "mm_processor_kwargs": "this model reads text only",
    "priority": "the admission queue sets it",
    "prompt_embeds": "send text or token ids as prompt",
    "request_id": "the gateway sets it",
}
"""Why some fields are refused, and what to use instead. Others that are in no table are refused without a reason."""
