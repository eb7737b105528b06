"""The schema stage: report tool calls that contradict the agent's list of tools.

The calls stay, because the tool result counts and not the list. They are reported because an example with such a call
teaches the opposite of its own prompt. ``pipeline/stages.py`` calls this stage.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from looper.jobs.synthesis.actions import parse_arguments
from looper.jobs.synthesis.draft import Draft, StageVerdict
from looper.platform.domain.trajectory import ToolCall

STAGE = "schema"


def check_schema(draft: Draft) -> Draft:
    """Report each way in which calls of a tool contradict its schema.

    Args:
        draft: The episode.

    Returns:
        The draft with one more verdict for each tool and contradiction, at the first such call. Nothing else changes.
    """
    schemas = _parameter_schemas(draft.source.tools)
    if schemas is None:
        return draft
    found: dict[tuple[str, str], StageVerdict] = {}
    for step in draft.steps:
        for call in step.step.tool_calls if step.step.source == "agent" else ():
            detail = _contradiction(call, schemas)
            if detail:
                verdict = StageVerdict(STAGE, "contradicts_schema", detail, step.source_index)
                found.setdefault((call.name, detail), verdict)
    return draft.with_steps(draft.steps, *found.values())


def _parameter_schemas(tools: str | None) -> dict[str, Mapping[str, Any]] | None:
    """Return the parameter schema of each tool by its name, or None if the list of tools is missing or unreadable."""
    try:
        listed = orjson.loads(tools or "null")
    except orjson.JSONDecodeError:
        return None
    if not isinstance(listed, list):
        return None
    functions = [tool.get("function", tool) for tool in listed if isinstance(tool, dict)]
    return {
        str(function.get("name")): _dict_or_empty(function.get("parameters"))
        for function in functions
        if isinstance(function, dict)
    }


def _contradiction(call: ToolCall, schemas: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return in one sentence how a call contradicts its schema, or None if it does not."""
    if call.name not in schemas:
        return f"{call.name} is not in the list of tools"
    arguments = parse_arguments(call)
    if arguments is None:
        return f"{call.name} was called with arguments that are no JSON object"
    properties, required = _dict_or_empty(schemas[call.name].get("properties")), schemas[call.name].get("required")
    missing = [name for name in required if name not in arguments] if isinstance(required, list) else []
    if missing:
        return f"{call.name} was called without {', '.join(map(str, missing))}"
    unknown = sorted(arguments.keys() - properties.keys()) if properties else []
    if unknown:
        return f"{call.name} was called with {', '.join(unknown)}, which it does not take"
    return None


def _dict_or_empty(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
