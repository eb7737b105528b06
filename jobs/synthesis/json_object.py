"""Parsing of texts that may be a JSON object: arguments of tool calls, tool results and outcome details.

``actions.py`` and the stages call it, because these texts come from users' agents and may hold anything.
"""

from typing import Any

import orjson


def parse_json_object(text: str) -> dict[str, Any] | None:
    """Parse a text that may be a JSON object.

    Args:
        text: Any text.

    Returns:
        The object, or None if the text is no JSON or another JSON value.
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
