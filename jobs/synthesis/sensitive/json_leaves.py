"""Reading JSON out of a text, visiting its strings and whole numbers, and writing it back in the same layout.

``replacement_plan.py`` visits the values of tool calls and tool results with it. ``fields.py`` tells the kind of a
value from the name of its field.
"""

import json
import re
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate
from typing import Any

from looper.jobs.synthesis.sensitive.fields import is_about_person, is_name_field, kind_of_field
from looper.jobs.synthesis.sensitive.kinds import SensitiveKind

MAX_JSON_DEPTH = 100
"""Maximum nesting depth of JSON that is parsed. Deeper JSON is treated as free text."""

LeafFunction = Callable[[Any, SensitiveKind | None], Any]
"""Takes a string or a whole number and the kind that its field tells, and returns the value to put there."""

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')

_PERSON_FIELD_KINDS = frozenset(
    {SensitiveKind.EMAIL, SensitiveKind.PHONE, SensitiveKind.BIRTH_DATE, SensitiveKind.IDENTITY_NUMBER}
)
"""An object with a field of one of these kinds is a person, so its field ``name`` holds the name of a person."""


def parse_json(text: str) -> Any:
    """Parse a text that is a JSON object or list.

    Args:
        text: Any text.

    Returns:
        The object or list, or None if the text is neither or is nested deeper than ``MAX_JSON_DEPTH``.
    """
    if not text.startswith(("{", "[")) and text.lstrip()[:1] not in ("{", "["):
        return None
    if _depth(text) > MAX_JSON_DEPTH:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _depth(text: str) -> int:
    """Return the nesting depth of brackets in ``text``, or 0 if it cannot exceed ``MAX_JSON_DEPTH``."""
    if text.count("{") + text.count("[") <= MAX_JSON_DEPTH:
        return 0
    return max(accumulate(1 if bracket in "{[" else -1 for bracket in re.findall(r"[\[\]{}]", text)))


def dump_json_like(value: Any, original: str) -> str:
    """Write a value as JSON in the layout of another JSON text.

    Args:
        value: The object or list to write.
        original: A JSON text, which may have white space around it.

    Returns:
        JSON with the separators, the indentation and the escaping of non-ASCII characters of ``original``.
    """
    text = original.strip()
    without_strings = _STRING.sub('""', text)
    indent = re.match(r"[\[{]\r?\n([ \t]+)", without_strings)
    new = json.dumps(
        value,
        ensure_ascii="\\u" in text,
        indent=indent[1] if indent else None,
        separators=(", " if ", " in without_strings else ",", ": " if ": " in without_strings else ":"),
    )
    return original.replace(text, new)


def map_leaves(
    value: Any,
    function: LeafFunction,
    kind: SensitiveKind | None = None,
    *,
    about_person: bool = False,
    in_string: bool = False,
) -> Any:
    """Replace each string and whole number of a JSON value by what ``function`` returns.

    A string that is itself JSON is visited as well, one level deep. A key with an ``@`` counts as a string.

    Args:
        value: The JSON value.
        function: Called with each leaf and the kind that its field tells.
        kind: Kind that the field of ``value`` itself tells.
        about_person: Whether ``value`` describes a person, so that its field ``name`` holds a person's name.
        in_string: Whether ``value`` was parsed from a string inside other JSON.

    Returns:
        The new value, with the same keys in the same order.
    """
    if isinstance(value, str):
        inner = parse_json(value) if not in_string and value.startswith(("{", "[")) else None
        if inner is None:
            return function(value, kind)
        new = map_leaves(inner, function, about_person=about_person, in_string=True)
        return value if new == inner else dump_json_like(new, value)
    if isinstance(value, dict):
        fields = _describe_fields(tuple(value), about_person)
        return {
            function(key, None) if "@" in key else key: map_leaves(
                child, function, child_kind, about_person=child_about_person, in_string=in_string
            )
            for (key, child), (child_kind, child_about_person) in zip(value.items(), fields, strict=True)
        }
    if isinstance(value, list):
        return [map_leaves(child, function, kind, about_person=about_person, in_string=in_string) for child in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return function(value, kind)
    return value


@lru_cache(maxsize=1024)
def _describe_fields(names: tuple[str, ...], about_person: bool) -> tuple[tuple[SensitiveKind | None, bool], ...]:
    """Return, for each field of an object, the kind of its value and whether the value describes a person."""
    kinds = [kind_of_field(name) for name in names]
    is_person = about_person or not _PERSON_FIELD_KINDS.isdisjoint(kinds)
    return tuple(
        (SensitiveKind.NAME if is_person and is_name_field(name) else kind, is_about_person(name))
        for name, kind in zip(names, kinds, strict=True)
    )
