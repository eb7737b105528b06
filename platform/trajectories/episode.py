"""Builds the trajectory of one episode. Every reader fills an ``EpisodeBuilder`` step by step and then calls ``build``.

Whatever the source did, the steps of a built trajectory fulfill three conditions: call ids are unique within the
episode, every ``tool`` step answers one earlier call, and no call is answered twice.
"""

import ast
import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from looper.platform.domain.errors import MalformedTrajectory
from looper.platform.domain.trajectory import Outcome, Source, Step, ToolCall, Trajectory

TERMINAL_TOOLS = frozenset({"finish", "submit", "done", "exit", "transfer_to_human_agents"})
"""Tools that end an episode in the formats that we read. Nothing answers their calls."""


@dataclass(frozen=True)
class RecordedCall:
    """A tool call as its source wrote it."""

    name: str
    """Name of the tool."""
    arguments: object
    """JSON text, a parsed value, or None."""
    id: str | None = None
    """Id of the call, None where the source has none."""


@dataclass(frozen=True)
class _OpenCall:
    """A call that has no result yet, with the id of its source and with our own."""

    source_id: str | None
    call: ToolCall
    step: int
    requestor: Literal["agent", "user"]


class EpisodeBuilder:
    """Collects the steps of one episode in order."""

    def __init__(self) -> None:
        """Start an episode without steps."""
        self._steps: list[Step] = []
        self._open: list[_OpenCall] = []
        self._call_ids: set[str] = set()

    def add_message(
        self,
        source: Source,
        content: str,
        calls: list[RecordedCall] | None = None,
        *,
        reasoning: str = "",
        requestor: Literal["agent", "user"] = "agent",
        timestamp: str | None = None,
    ) -> None:
        """Add a message, possibly with tool calls.

        Args:
            source: Who wrote the message.
            content: Its text.
            calls: Tool calls that it makes.
            reasoning: What an agent thought before.
            requestor: Who makes the calls. In some sources the user has tools, too.
            timestamp: When it was written, in the source's own form.
        """
        tool_calls = tuple(
            ToolCall(id=self._unique_id(call.id), name=call.name, arguments=arguments_to_json(call.arguments))
            for call in calls or ()
        )
        self._open += [
            _OpenCall(call.id, tool_call, len(self._steps), requestor)
            for call, tool_call in zip(calls or (), tool_calls, strict=True)
        ]
        self._steps.append(
            Step(
                source=source,
                content=content,
                reasoning=reasoning,
                tool_calls=tool_calls,
                requestor=requestor,
                timestamp=timestamp,
            )
        )

    def add_tool_result(self, call_id: str | None, content: str, *, timestamp: str | None = None) -> None:
        """Add the result of an earlier call.

        Args:
            call_id: Id of the call in the source. None where the source has no ids: the result then answers the oldest
                call without one.
            content: Text of the result.
            timestamp: When it arrived, in the source's own form.

        Raises:
            MalformedTrajectory: No call waits for this result (reason ``orphan_result``).
        """
        answered = next((call for call in self._open if call_id is None or call.source_id == call_id), None)
        if answered is None:
            which = "a tool result" if call_id is None else f"the result of call {call_id!r}"
            raise MalformedTrajectory("orphan_result", f"{which} (step {len(self._steps)}) answers no call before it")
        self._open.remove(answered)
        self._steps.append(
            Step(
                source="tool",
                content=content,
                call_id=answered.call.id,
                requestor=answered.requestor,
                timestamp=timestamp,
            )
        )

    def is_open(self, call_id: str) -> bool:
        """Return whether a call was made and has no result yet.

        Args:
            call_id: Id of the call in the source.
        """
        return any(call.source_id == call_id for call in self._open)

    def build(
        self,
        *,
        task_id: str | None,
        format: str,
        outcome: Outcome,
        tools: list[Any] | None = None,
        has_ended: bool = False,
    ) -> Trajectory:
        """Check the episode and return its trajectory.

        Args:
            task_id: Id of the task, the same in every run of the task. None derives it from the first user message.
            format: Name of the source's format.
            outcome: How the episode ended.
            tools: Tools of the agent, as OpenAI's list of tools.
            has_ended: Whether the source recorded that the episode ended. Then any calls of the last agent step may
                have no results; otherwise only calls of ``TERMINAL_TOOLS`` may.

        Returns:
            The trajectory.

        Raises:
            MalformedTrajectory: The agent says and does nothing (reason ``empty``), or a call has no result (reason
                ``unanswered_call``).
        """
        agent_steps = [i for i, step in enumerate(self._steps) if step.source == "agent"]
        if not any(self._steps[i].content.strip() or self._steps[i].tool_calls for i in agent_steps):
            raise MalformedTrajectory("empty", "there is no step in which the agent says or does anything")
        for call in self._open:
            is_last = call.step >= agent_steps[-1]
            if not is_last or not (has_ended or call.call.name in TERMINAL_TOOLS):
                raise MalformedTrajectory(
                    "unanswered_call", f"call {call.call.id!r} of {call.call.name!r} (step {call.step}) has no result"
                )
        if task_id is None:
            task_id = task_id_from_text(next((s.content for s in self._steps if s.source == "user"), ""))
        return Trajectory.create(
            task_id=task_id,
            format=format,
            steps=tuple(self._steps),
            outcome=outcome,
            tools=to_json_text(tools) if tools else None,
        )

    def _unique_id(self, source_id: str | None) -> str:
        """Return the source's id of a call, or a new one if it is missing or was used in this episode before."""
        count = len(self._call_ids)
        name = source_id or f"call_{count}"
        while name in self._call_ids:
            name = f"{source_id or 'call'}_{count}"
            count += 1
        self._call_ids.add(name)
        return name


def task_id_from_text(text: str) -> str:
    """Return a task id made from the task's own words.

    Args:
        text: Description of the task. The amount of white space between words does not matter.

    Returns:
        An id that is the same for the same words in every file.
    """
    return f"text-{hashlib.sha256(' '.join(text.split()).encode()).hexdigest()[:16]}"


def to_json_text(value: object) -> str:
    """Return a value as compact JSON text, with keys in their own order.

    Args:
        value: A parsed JSON value.

    Raises:
        MalformedTrajectory: The value nests too deeply (reason ``malformed_episode``).
    """
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError as error:
        raise MalformedTrajectory("malformed_episode", f"a value cannot be written as JSON: {error}") from error


def arguments_to_json(arguments: object) -> str:
    """Return the arguments of a call as JSON text.

    Args:
        arguments: JSON text, a parsed value, or None for no arguments.

    Returns:
        Text that is JSON already stays as the source wrote it. A Python literal becomes JSON, because some agents log
        ``str(dict)``. Other text stays as it is: it is the agent's own mistake, and part of its experience.

    Raises:
        MalformedTrajectory: A parsed value nests too deeply (reason ``malformed_episode``).
    """
    if arguments is None or arguments == "":
        return "{}"
    if not isinstance(arguments, str):
        return to_json_text(arguments)
    try:
        orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return _literal_to_json(arguments)
    return arguments


def _literal_to_json(text: str) -> str:
    try:
        value: Any = ast.literal_eval(text)
        return to_json_text(value) if isinstance(value, dict) else text
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text
