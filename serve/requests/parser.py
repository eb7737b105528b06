"""Parses the body of a request: every field is known and within its bounds, or the request is refused by name.

Parsing holds the gateway's event loop, and no thread would help: decoders keep Python's lock. So the time is bounded
instead. First, the strings of the body are counted, then the bytes of each field, and only what is small enough is
decoded. msgspec stops at the first mistake, so that a wrong body costs no more than a right one.
"""

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from looper.serve.error_responses import RequestRefused, error_response, invalid_json
from looper.serve.protocol import Endpoint, RequestBody
from looper.serve.requests.checks import RequestLimits, check_values, count_sequences
from looper.serve.requests.fields import (
    FIELDS,
    FREE_FIELDS,
    KIB,
    MAX_PROMPT_IDS,
    MAX_STRINGS,
    MAX_VALUES,
    PROMPT_TYPES,
    REFUSED,
    RequestField,
)

_MISSING = msgspec.Raw(b"")

_LOCATION = re.compile(r"(?P<problem>.*?)(?: - at (?:`key` in )?`\$\.?(?P<field>.*)`)?", re.DOTALL)
_NAMED_FIELD = re.compile(r"Object (?P<kind>contains unknown|missing required) field `(?P<name>.*)`", re.DOTALL)

_MAX_QUOTED_CHARACTERS = 64

_MAX_NAMED_BYTES = 64 * KIB
"""Maximum size of a body that nests too deeply for which the field is looked for."""


@dataclass(frozen=True)
class ParsedRequest:
    """A request whose fields are known and within their bounds."""

    model: str
    """The model that it names."""
    body: RequestBody
    """What the engine gets: the fields that are set and have an effect."""
    num_seqs: int
    """Number of sequences that the engine generates: prompts times choices or beams."""
    user: str | None = None
    """The client's own user, who tells conversations apart that begin alike. The engine does not get it."""


class _Decoders:
    """The decoders of one endpoint."""

    def __init__(self, fields: dict[str, RequestField]) -> None:
        raw = [(name, msgspec.Raw, _MISSING) for name in fields]
        scan = msgspec.defstruct("Fields", raw, forbid_unknown_fields=True)
        self.scan = msgspec.json.Decoder(scan)
        self.whole = _decoder(fields)
        self.by_prompt = {
            first: _decoder(fields | {"prompt": RequestField(prompt, is_required=True)})
            for first, prompt in PROMPT_TYPES.items()
        }


def _decoder(fields: dict[str, RequestField]) -> msgspec.json.Decoder[Any]:
    struct_fields: list[Any] = [
        (name, field.type) if field.is_required else (name, field.type | None, None) for name, field in fields.items()
    ]
    return msgspec.json.Decoder(
        msgspec.defstruct("Request", struct_fields, kw_only=True, forbid_unknown_fields=True, omit_defaults=True)
    )


_DECODERS = {endpoint: _Decoders(fields) for endpoint, fields in FIELDS.items()}


def parse_request(endpoint: Endpoint, content: bytes, limits: RequestLimits) -> ParsedRequest:
    """Parse a request's body and check every field.

    Args:
        endpoint: The endpoint that it was sent to.
        content: The body, at most ``MAX_BODY_BYTES``.
        limits: What engines of the cluster can run.

    Returns:
        The request.

    Raises:
        RequestRefused: The body is not JSON, or a field is unknown or out of its bounds. The error names the field.
    """
    # The opening quote of a string never follows a backslash, so this is no less than the number of strings.
    if content.count(b'"') - content.count(b'\\"') > 2 * MAX_STRINGS:
        raise RequestRefused(error_response(400, f"the request has more than {MAX_STRINGS} strings"))
    decoders = _DECODERS[endpoint]
    fields = _scan(decoders, content)
    sizes = {name: getattr(fields, name) for name in FIELDS[endpoint]}
    for name, field in FIELDS[endpoint].items():
        if len(sizes[name]) > field.max_bytes:
            raise _refused(name, f"is larger than {_format_bytes(field.max_bytes)}")
    for name in FREE_FIELDS & sizes.keys():
        raw = bytes(sizes[name])
        if raw.count(b"[") + raw.count(b"{") > MAX_VALUES:
            raise _refused(name, f"has more than {MAX_VALUES} objects and arrays")
    request = _decode(_choose_decoder(decoders, bytes(sizes.get("prompt", b"")), limits), content)
    body: RequestBody = msgspec.to_builtins(request)
    user = body.get("user")
    for name, field in FIELDS[endpoint].items():
        if not field.is_passed_on:
            body.pop(name, None)
    check_limits(body, limits)
    return ParsedRequest(request.model, body, count_sequences(body), user)


def check_limits(body: RequestBody, limits: RequestLimits) -> None:
    """Check what a request's fields mean together, and that certain engines can run it.

    Args:
        body: The body of a parsed request.
        limits: What the engines can run.

    Raises:
        RequestRefused: A field is out of its bounds. The error names the field.
    """
    if problem := check_values(body, limits):
        raise _refused(*problem)


def _scan(decoders: _Decoders, content: bytes) -> Any:
    """Return the JSON of each field."""
    try:
        return _decode(decoders.scan, content)
    except RequestRefused as error:
        if isinstance(error.__cause__, RecursionError) and len(content) <= _MAX_NAMED_BYTES:
            _decode(decoders.whole, content)  # names the field, unless it may nest freely
        raise


def _choose_decoder(decoders: _Decoders, prompt: bytes, limits: RequestLimits) -> msgspec.json.Decoder[Any]:
    """Return the decoder for this kind of prompt. It stops at the first item of another kind."""
    if not prompt.startswith(b"["):
        return decoders.whole
    first = prompt[1:].lstrip()[:1].decode(errors="replace")
    kind = first if first in decoders.by_prompt else ""
    # Without strings in it, the punctuation tells how many lists and token ids there are.
    if kind == "[" and prompt.count(b"[") - 1 > limits.max_sequences:
        raise _refused("prompt", f"has more prompts than the maximum of {limits.max_sequences} sequences")
    most = min(limits.max_tokens * (limits.max_sequences if kind == "[" else 1), MAX_PROMPT_IDS)
    if kind != '"' and prompt.count(b",") >= most:
        raise _refused("prompt", f"has more than {most} token ids, which is the maximum")
    return decoders.by_prompt[kind]


def _decode(decoder: msgspec.json.Decoder[Any], content: bytes) -> Any:
    try:
        return decoder.decode(content)
    except msgspec.ValidationError as error:
        raise _explain(str(error)) from error
    except RecursionError as error:
        raise RequestRefused(error_response(400, "the request is nested too deeply")) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestRefused(invalid_json(str(error))) from error


def _explain(message: str) -> RequestRefused:
    """Turn msgspec's message into an error that names the field."""
    match = _LOCATION.fullmatch(message)
    assert match is not None
    problem, field = match["problem"], (match["field"] or "").replace("[...]", "")
    if named := _NAMED_FIELD.fullmatch(problem):
        name = named["name"][:_MAX_QUOTED_CHARACTERS]
        if named["kind"].startswith("contains"):
            reason = REFUSED.get(name, "it is unknown here") if not field else "it is unknown here"
            return _refused(f"{field}.{name}".lstrip("."), f"is not accepted: {reason}")
        if name == "model" and not field:
            return _refused("model", "the request has no model: set model to tenant/instance")
        return _refused(f"{field}.{name}".lstrip("."), "is required")
    if not field:
        return RequestRefused(invalid_json(problem))
    return _refused(field[: 4 * _MAX_QUOTED_CHARACTERS], problem[:1].lower() + problem[1:])


def _refused(field: str, problem: str) -> RequestRefused:
    return RequestRefused(error_response(400, f"{field}: {problem}", param=field))


def _format_bytes(size: int) -> str:
    return f"{size // KIB} KiB" if size >= KIB else f"{size} bytes"
