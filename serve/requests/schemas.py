"""Checks the references of JSON schemas before anything follows them. ``checks`` calls it."""

from typing import Any
from urllib.parse import unquote

_SAME_VALUE = ("anyOf", "oneOf", "allOf")
"""Keywords whose schemas describe the same value as the schema that they are in."""


def find_reference_problem(schema: dict[str, Any]) -> str | None:
    """Find a reference that leads nowhere, elsewhere, or back to itself without a value in between.

    A schema may refer to itself: a tree's child is a tree. It must not be itself, as ``{"$ref": "#"}`` is.

    Args:
        schema: The schema. Its depth is bounded.

    Returns:
        What is wrong, None if nothing is.
    """
    is_done: dict[int, bool] = {}  # by the schema's id; False while the schemas that it is the same as are followed

    for start in _subschemas(schema):
        stack: list[tuple[dict[str, Any], bool]] = [(start, False)]
        while stack:
            node, is_left = stack.pop()
            if is_left:
                is_done[id(node)] = True
                continue
            if (done := is_done.get(id(node))) is not None:
                if not done:
                    return "a $ref leads back to itself"
                continue
            is_done[id(node)] = False
            stack.append((node, True))
            if isinstance(reference := node.get("$ref"), str):
                if (target := _resolve(schema, reference)) is None:
                    return f"$ref {reference[:64]!r} is not a schema here: it must begin with # and lead to a schema"
                stack.append((target, False))
            for keyword in _SAME_VALUE:
                if isinstance(members := node.get(keyword), list):
                    stack.extend((member, False) for member in members if isinstance(member, dict))
    return None


def _subschemas(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all objects in a schema, itself included."""
    found, pending = [], [schema]
    while pending:
        value: Any = pending.pop()
        if isinstance(value, dict):
            found.append(value)
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
    return found


def _resolve(schema: dict[str, Any], reference: str) -> dict[str, Any] | None:
    """Return the schema at a reference of the form ``#/$defs/name``."""
    if not reference.startswith("#"):
        return None
    value: Any = schema
    for part in reference[1:].split("/")[1:]:
        key = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value if isinstance(value, dict) else None
