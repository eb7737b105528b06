"""What an agent did, action by action: the tool calls of one step and the results that they got.

The stages of synthesis read an episode through ``extract_actions``. Tools are classified by their names alone.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import orjson

from looper.jobs.synthesis.draft import DraftStep, ErrorKind
from looper.jobs.synthesis.json_object import parse_json_object
from looper.platform.domain.trajectory import ToolCall

MAX_ARGUMENT_DEPTH = 100
"""Maximum nesting depth of arguments that are parsed.

Deeper arguments are treated as text, because code that walks or serializes them would exceed the recursion limit.
"""

_READ_ONLY_NAME = re.compile(
    r"^(get|list|search|find|read|view|show|look|lookup|check|fetch|query|describe|calculate|think|count|status|track"
    r"|history|verify|validate|preview|report|audit|open_file|cat|ls|pwd|grep|goto|scroll|open)(_|$)",
    re.IGNORECASE,
)
"""Names of tools that change nothing, by the first word of the name."""

_END_NAME = re.compile(r"^(transfer|finish|submit|done|exit)(_|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Action:
    """One step of the agent with tool calls, and the results of these calls."""

    index: int
    """Index of the agent's step in the draft's steps."""
    result_indices: tuple[int, ...]
    """Indices of the steps with the tool results, in the order of the calls. A call without a result has none."""
    signatures: tuple[str, ...]
    """``call_signature`` of each call."""
    observations: tuple[str, ...]
    """Text of each tool result."""
    errors: tuple[ErrorKind | None, ...]
    """Kind of error of each tool result, or None if the result is no error."""
    calls: tuple[ToolCall, ...]
    """The tool calls."""
    segment: int
    """Number of the work segment that the step belongs to."""

    @property
    def all_failed(self) -> bool:
        """Whether there are results and all of them are errors."""
        return bool(self.errors) and None not in self.errors

    @property
    def changed_state(self) -> bool:
        """Whether a call that is not read-only was accepted."""
        return any(
            error is None and not is_read_only_tool(call.name)
            for call, error in zip(self.calls, self.errors, strict=False)
        )


def extract_actions(steps: Sequence[DraftStep]) -> list[Action]:
    """Return the agent's actions in order. Tool calls that the user made are left out.

    Args:
        steps: Steps of one draft.

    Returns:
        One action for each step of the agent that has tool calls.
    """
    result_index = {
        step.step.call_id: index for index, step in enumerate(steps) if step.step.source == "tool" and step.step.call_id
    }
    return list(_iterate_actions(steps, result_index))


def _iterate_actions(steps: Sequence[DraftStep], result_index: dict[str, int]) -> Iterator[Action]:
    for index, step in enumerate(steps):
        calls = step.step.tool_calls
        if step.step.source != "agent" or not calls:
            continue
        results = tuple(result_index[call.id] for call in calls if call.id in result_index)
        yield Action(
            index=index,
            result_indices=results,
            signatures=tuple(call_signature(call) for call in calls),
            observations=tuple(steps[result].step.content for result in results),
            errors=tuple(steps[result].error for result in results),
            calls=calls,
            segment=step.segment,
        )


def call_signature(call: ToolCall) -> str:
    """Return a text that is equal for calls of the same tool with equal arguments.

    Args:
        call: The tool call.

    Returns:
        The tool's name and its arguments. The order of the arguments and white space in the JSON text do not matter.
    """
    return f"{call.name} {_canonical_arguments(call.arguments)}"


@lru_cache(maxsize=256)  # each stage asks again for the calls of the same episode
def _canonical_arguments(arguments: str) -> str:
    parsed = _parse_object(arguments)
    if parsed is None:
        return " ".join(arguments.split())
    return orjson.dumps(parsed, option=orjson.OPT_SORT_KEYS).decode()


def parse_arguments(call: ToolCall) -> dict[str, object] | None:
    """Parse the arguments of a call.

    Args:
        call: The tool call.

    Returns:
        The arguments, or None if they are no JSON object or are nested deeper than ``MAX_ARGUMENT_DEPTH``.
    """
    return _parse_object(call.arguments)


def _parse_object(text: str) -> dict[str, object] | None:
    value = parse_json_object(text)
    return None if value is None or _is_too_deep(text, value) else value


def _is_too_deep(text: str, value: object) -> bool:
    if text.count("{") + text.count("[") <= MAX_ARGUMENT_DEPTH:
        return False
    level = [value]
    for _ in range(MAX_ARGUMENT_DEPTH):
        containers = [
            node.values() if isinstance(node, dict) else node for node in level if isinstance(node, dict | list)
        ]
        level = [child for container in containers for child in container]
    return bool(level)


def is_read_only_tool(tool: str) -> bool:
    """Return whether a tool only reads, judged by its name.

    Args:
        tool: Name of the tool.

    Returns:
        True if the first word of the name is one of reading. Unknown tools count as writing.
    """
    return bool(_READ_ONLY_NAME.match(tool))


def is_end_tool(tool: str) -> bool:
    """Return whether a tool only ends the episode, judged by its name.

    Args:
        tool: Name of the tool.

    Returns:
        True for names such as ``finish`` or ``transfer_to_human``.
    """
    return bool(_END_NAME.match(tool))
