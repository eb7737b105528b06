"""Writes docs/reference/requests.md from the tables of fields: ``python -m looper.serve.requests.reference > FILE``.

A test compares the page with what this module writes.
"""

from collections.abc import Iterator

from msgspec import inspect

from looper.serve.requests import fields as tables
from looper.serve.requests.fields import FIELDS, KIB, REFUSED, RequestField

_HEAD = f"""\
# Request fields

`python -m looper.serve.requests.reference` writes this page from `serve/requests/fields.py`, and a test compares them.

The gateway knows every field of a request before an engine sees it. A field that is not on this page, or a value out of
its bounds, gets status 400 and an error whose `param` names the field. vLLM has more fields, and some of them would let
one tenant disturb another.

- A field that is `null` is the same as a field that is absent.
- If a key comes twice, the last one counts.
- A body has at most {tables.MAX_BODY_BYTES // 2**20} MiB and {tables.MAX_STRINGS} strings, and must not be compressed.
- Messages, their parts and their tool calls are at most {tables.MAX_MESSAGES} together.
- A JSON schema is at most {tables.MAX_DEPTH} deep. All free JSON of a field together has at most {tables.MAX_VALUES}
  objects and arrays.
- A `$ref` must begin with `#`, lead to a schema, and not lead back to itself without a value in between.
- Images, audio and video are refused: an engine would fetch them from any address.
- Token ids must be in the base model's vocabulary.
- Prompts times `n` is at most the setting `serve.max_num_seqs`, for beams too. `max_tokens`, `min_tokens` and the token
  ids of a prompt are at most `serve.max_model_len`.

Fields that are *accepted, without effect* are what OpenAI's clients send by themselves or for OpenAI's own service.
"""

_TITLES = {"chat": "`/v1/chat/completions`", "completions": "`/v1/completions`"}


def write_reference() -> str:
    """Return the page as Markdown."""
    return "\n".join((_HEAD, *_tables()))


def _tables() -> Iterator[str]:
    for endpoint, table in FIELDS.items():
        yield f"## {_TITLES[endpoint]}\n"
        yield "| field | value | bytes at most | note |"
        yield "| --- | --- | --- | --- |"
        for name, field in sorted(table.items()):
            size = f"{field.max_bytes // KIB} KiB" if field.max_bytes >= KIB else str(field.max_bytes)
            yield f"| `{name}` | {_describe(inspect.type_info(field.type))} | {size} | {_note(field)} |"
        yield ""
    yield "## Refused with a reason\n"
    yield "| field | reason |"
    yield "| --- | --- |"
    yield from (f"| `{name}` | {reason} |" for name, reason in sorted(REFUSED.items()))
    yield ""


def _note(field: RequestField) -> str:
    if field.is_required:
        return "required"
    return "optional" if field.is_passed_on else "accepted, without effect"


def _describe(kind: inspect.Type) -> str:
    """Describe a type and its bounds in words."""
    match kind:
        case inspect.UnionType():
            return " or ".join(_describe(member) for member in kind.types if not isinstance(member, inspect.NoneType))
        case inspect.IntType():
            return f"integer{_range(kind)}"
        case inspect.FloatType():
            return f"number{_range(kind)}"
        case inspect.StrType():
            pattern = f" matching `{kind.pattern}`" if kind.pattern else ""
            return f"string{_length(kind.min_length, kind.max_length)}{pattern}"
        case inspect.ListType():
            return f"array{_length(kind.min_length, kind.max_length)} of ({_describe(kind.item_type)})"
        case inspect.DictType():
            return f"object{_length(kind.min_length, kind.max_length)} of ({_describe(kind.value_type)})"
        case inspect.LiteralType():
            return ", ".join(f"`{value}`" for value in kind.values)
        case inspect.StructType():
            members = (
                f"`{field.name}`{'' if field.required else '?'}: {_describe(field.type)}" for field in kind.fields
            )
            return f"object with ({'; '.join(members)})"
        case inspect.BoolType():
            return "boolean"
        case inspect.NoneType():
            return "null"
    return "anything"


def _range(kind: inspect.IntType | inspect.FloatType) -> str:
    if kind.ge is None and kind.gt is None and kind.le is None:
        return ""
    return f" {f'above {kind.gt:g}' if kind.gt is not None else kind.ge} to {kind.le}"


def _length(shortest: int | None, longest: int | None) -> str:
    if longest is None:
        return "" if not shortest else f" of {shortest} or more"
    return f" of {shortest or 0} to {longest}"


if __name__ == "__main__":
    print(write_reference(), end="")
