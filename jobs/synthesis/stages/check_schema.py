"""Calls that are not what the agent's list of tools says. The world's answer counts, not the list: they stay, and it is
said, because an example then teaches what its own prompt contradicts.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from looper.jobs.synthesis.actions import parsed
from looper.jobs.synthesis.draft import Draft, StageVerdict
from looper.platform.domain.trajectory import ToolCall

STAGE = "schema"


def check_schema(draft: Draft) -> Draft:
    """Say once for each tool what its schema and the agent's calls disagree in."""
    known = _parameters(draft.source.tools)
    found: dict[tuple[str, str], StageVerdict] = {}
    for each in draft.steps if known is not None else ():
        for call in each.step.tool_calls if each.step.source == "agent" else ():
            what = _contradiction(call, known or {})
            if what:
                found.setdefault((call.name, what), StageVerdict(STAGE, "contradicts_schema", what, each.place))
    return draft.with_steps(draft.steps, *found.values())


def _parameters(tools: str | None) -> dict[str, Mapping[str, Any]] | None:
    """What each tool takes, by its name; None if no list of tools is known or can be read."""
    try:
        listed = orjson.loads(tools or "null")
    except orjson.JSONDecodeError:
        return None
    if not isinstance(listed, list):
        return None
    functions = [tool.get("function", tool) for tool in listed if isinstance(tool, dict)]
    return {
        str(function.get("name")): _object(function.get("parameters"))
        for function in functions
        if isinstance(function, dict)
    }


def _contradiction(call: ToolCall, known: Mapping[str, Mapping[str, Any]]) -> str | None:
    if call.name not in known:
        return f"{call.name} is no tool of the list"
    arguments = parsed(call)
    if arguments is None:
        return f"{call.name} was not called with a JSON object"
    properties, required = _object(known[call.name].get("properties")), known[call.name].get("required")
    missing = [name for name in required if name not in arguments] if isinstance(required, list) else []
    if missing:
        return f"{call.name} was called without {', '.join(map(str, missing))}"
    strange = sorted(arguments.keys() - properties.keys()) if properties else []
    if strange:
        return f"{call.name} was called with {', '.join(strange)}, which it does not take"
    return None


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
