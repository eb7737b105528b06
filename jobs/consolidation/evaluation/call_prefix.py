"""What the beginning of a tool call tells: that it repeats the call before, or that no valid call can come of it.

Judged are beginnings: the tokens up to and including the first that departs from the true call. So far, predicting
token by token with the truth as history and generating greedily are the same, so that nothing has to be generated. How
the call would have gone on is not known: an error that would have come later is not counted.
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
    """A tool call of the agent, and how the model would have begun it, as texts in the form of the base's template."""

    said: str
    """Up to the first token that departs from ``true``, that one included; or all of ``true``."""
    true: str
    before: str | None
    """The agent's call before, if the model saw one."""
    tools: str | None
    """JSON text of the OpenAI tool list. Without one, any name is known."""


def is_repeated_call(call: CallPrefix) -> bool:
    """Whether the model turns to the call before, where the true call is another."""
    if call.before is None:
        return False
    said, true, before = (text.lstrip() for text in (call.said, call.true, call.before))
    return before.startswith(said) and not true.startswith(said)


def is_invalid_call(call: CallPrefix) -> bool | None:
    """Whether what was said can become no valid call: malformed, of an unknown tool, or with an unknown argument.

    What departs before the call's object opens is text and breaks nothing. None if the true call is not read as valid
    itself: the base's template writes calls in another form than ``{"name": ..., "arguments": {...}}``.
    """
    said, true, form = call.said, call.true, _form(call.tools)
    opens = true.find("{")
    whole = form.match(true, opens) if opens >= 0 else None
    if whole is None:
        return None
    departs = next((i for i, (a, b) in enumerate(zip(said, true, strict=False)) if a != b), len(said))
    if true.startswith(said) or not opens < departs < whole.end("call"):
        return False
    return form.fullmatch(said, opens, partial=True) is None


@lru_cache(maxsize=64)
def _form(tools: str | None) -> "regex.Pattern[str]":
    """Matches an object that calls one of ``tools``, and what follows it; in part, what may become one."""
    body = rf'(?P<call>\{{ \s*+ "name" \s*+ : \s*+ (?: {" | ".join(_known(tools))} ) \s*+ \}})'
    return regex.compile(rf"{_JSON} {body} [\s\S]*+", regex.VERBOSE)


def _known(tools: str | None) -> list[str]:
    try:
        known = [] if tools is None else [_tool(tool) for tool in orjson.loads(tools)]
    except (LookupError, TypeError, AttributeError, ValueError):  # a list in another form than OpenAI's tells nothing
        known = []
    return known or [_ANYTHING + _arguments(None)]


def _tool(tool: Any) -> str:
    function = tool.get("function", tool)
    schema = function.get("parameters") or {}
    is_open = "properties" not in schema or schema.get("additionalProperties")
    return _quoted(function["name"]) + _arguments(None if is_open else list(schema["properties"]))


def _arguments(names: list[str] | None) -> str:
    """Those of the given names, in any order; of any name for None."""
    name = _ANYTHING if names is None else "(?: " + " | ".join(map(_quoted, names)) + " )" if names else "(?!)"
    pair = rf"{name} \s*+ : \s*+ (?&value) \s*+"
    return rf'\s*+ , \s*+ "(?:arguments|parameters)" \s*+ : \s*+ \{{ \s*+ (?: {pair} (?: , \s*+ {pair} )*+ )?+ \}}'


def _quoted(name: str) -> str:
    return str(regex.escape(orjson.dumps(name).decode(), special_only=False, literal_spaces=False))
