"""Tell from the prefix of a tool call whether it repeats the previous call or can no longer become a valid call.

A prefix is all tokens up to the first one that differs from the true call. Up to there, teacher forcing and greedy
generation give the same tokens, so nothing has to be generated. The rest of the call is unknown, so later errors are
not counted. ``candidate_scores.py`` computes ``loops`` and ``tool_errors`` from it.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson
import regex

_JSON = r"""(?(DEFINE)
    (?P<string> "(?:[^"\\\x00-\x1f]|\\.)*+" )
    (?P<pair> (?&string) \s*+ : \s*+ (?&value) \s*+ )
    (?P<value>
        (?&string) | -?[0-9][-+.0-9eE]*+ | true | false | null
        | \[ \s*+ (?: (?&value) \s*+ (?: , \s*+ (?&value) \s*+ )*+ )?+ \]
        | \{ \s*+ (?: (?&pair) (?: , \s*+ (?&pair) )*+ )?+ \}
    )
)"""
_ANYTHING = "(?&string)"


@dataclass(frozen=True)
class CallPrefix:
    """A true tool call and the prefix that the model predicts for it, as text in the form of the base's template."""

    said: str
    """The predicted prefix: up to the first token that differs from ``true``, including it, or all of ``true``."""
    true: str
    """The true call."""
    before: str | None
    """The agent's previous call, if the model saw one."""
    tools: str | None
    """The OpenAI tool list as JSON text. None means that any tool name is valid."""


def is_repeated_call(call: CallPrefix) -> bool:
    """Tell whether the model repeats the previous call although the true call is another.

    Args:
        call: The call and its predicted prefix.

    Returns:
        Whether the predicted prefix starts the previous call and not the true one.
    """
    if call.before is None:
        return False
    said, true, before = (text.lstrip() for text in (call.said, call.true, call.before))
    return before.startswith(said) and not true.startswith(said)


def is_invalid_call(call: CallPrefix) -> bool | None:
    """Tell whether the predicted prefix can no longer become a valid call.

    It cannot if it is malformed, names an unknown tool, or has an unknown argument. A prefix that differs before the
    call's JSON object opens is text, and counts as valid.

    Args:
        call: The call and its predicted prefix.

    Returns:
        Whether the call is invalid. None if even the true call does not parse, because the base's template writes calls
        in another form than ``{"name": ..., "arguments": {...}}``.
    """
    said, true, form = call.said, call.true, _call_pattern(call.tools)
    opens = true.find("{")
    whole = form.match(true, opens) if opens >= 0 else None
    if whole is None:
        return None
    departs = next((i for i, (a, b) in enumerate(zip(said, true, strict=False)) if a != b), len(said))
    if true.startswith(said) or not opens < departs < whole.end("call"):
        return False
    return form.fullmatch(said, opens, partial=True) is None


@lru_cache(maxsize=64)
def _call_pattern(tools: str | None) -> "regex.Pattern[str]":
    """Return a pattern for an object that calls one of ``tools``, and anything after it. Supports partial matches."""
    body = rf'(?P<call>\{{ \s*+ "name" \s*+ : \s*+ (?: {" | ".join(_tool_patterns(tools))} ) \s*+ \}})'
    return regex.compile(rf"{_JSON} {body} [\s\S]*+", regex.VERBOSE)


def _tool_patterns(tools: str | None) -> list[str]:
    try:
        known = [] if tools is None else [_tool_pattern(tool) for tool in orjson.loads(tools)]
    except (LookupError, TypeError, AttributeError, ValueError):  # not OpenAI's form: any tool is valid
        known = []
    return known or [_ANYTHING + _arguments_pattern(None)]


def _tool_pattern(tool: Any) -> str:
    function = tool.get("function", tool)
    schema = function.get("parameters") or {}
    is_open = "properties" not in schema or schema.get("additionalProperties")
    return _quoted(function["name"]) + _arguments_pattern(None if is_open else list(schema["properties"]))


def _arguments_pattern(names: list[str] | None) -> str:
    """Return a pattern for arguments with the given names, in any order. None allows any name."""
    name = _ANYTHING if names is None else "(?: " + " | ".join(map(_quoted, names)) + " )" if names else "(?!)"
    pair = rf"{name} \s*+ : \s*+ (?&value) \s*+"
    return rf'\s*+ , \s*+ "(?:arguments|parameters)" \s*+ : \s*+ \{{ \s*+ (?: {pair} (?: , \s*+ {pair} )*+ )?+ \}}'


def _quoted(name: str) -> str:
    return str(regex.escape(orjson.dumps(name).decode(), special_only=False, literal_spaces=False))
