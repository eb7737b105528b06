"""One episode under construction: what every reader fills, step by step, and what it must hold.

A reader says what was said (`say`) and what was observed (`observe`); `trajectory` checks the whole and closes it. The
steps that come out keep three promises, whatever the source did: call ids are unique within the episode, every ``tool``
step answers one earlier call, and no call is answered twice.
"""

import ast
import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from looper.platform.domain.errors import MalformedTrajectory
from looper.platform.domain.trajectory import Outcome, Source, Step, ToolCall, Trajectory

# Calls that end an episode in the sources we read: nothing ever answers them.
TERMINAL_TOOLS = frozenset({"finish", "submit", "done", "exit", "transfer_to_human_agents"})


@dataclass(frozen=True)
class RecordedCall:
    """A call as its source wrote it; ``id`` is None where the source has none."""

    name: str
    arguments: object
    id: str | None = None


@dataclass(frozen=True)
class _OpenCall:
    """A call that waits for its result: under the id of its source, and under ours."""

    source_id: str | None
    call: ToolCall
    step: int
    requestor: Literal["agent", "user"]


class EpisodeBuilder:
    """The steps of one episode, in order."""

    def __init__(self) -> None:
        self._steps: list[Step] = []
        self._open: list[_OpenCall] = []
        self._call_ids: set[str] = set()

    def say(
        self,
        source: Source,
        content: str,
        calls: list[RecordedCall] | None = None,
        *,
        requestor: Literal["agent", "user"] = "agent",
        timestamp: str | None = None,
    ) -> None:
        """Add a step that says ``content`` and makes ``calls``."""
        tool_calls = tuple(
            ToolCall(id=self._unique(call.id), name=call.name, arguments=as_json(call.arguments))
            for call in calls or ()
        )
        self._open += [
            _OpenCall(call.id, tool_call, len(self._steps), requestor)
            for call, tool_call in zip(calls or (), tool_calls, strict=True)
        ]
        self._steps.append(
            Step(source=source, content=content, tool_calls=tool_calls, requestor=requestor, timestamp=timestamp)
        )

    def observe(self, call_id: str | None, content: str, *, timestamp: str | None = None) -> None:
        """Add the result of the call ``call_id``, or of the oldest unanswered one where the source gives no id."""
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

    def awaits(self, call_id: str) -> bool:
        """Whether the call ``call_id`` was made and is still unanswered."""
        return any(call.source_id == call_id for call in self._open)

    def trajectory(
        self, *, task_id: str | None, format: str, outcome: Outcome, tools: list[Any] | None = None, ended: bool = False
    ) -> Trajectory:
        """Check the episode and close it.

        Without a ``task_id`` the task is named by the first thing the user said. ``tools`` is the OpenAI tool list.
        ``ended`` says that the source recorded the episode's end, so that calls of the last agent step
        may lack their results; without it only the TERMINAL_TOOLS may.

        Raises MalformedTrajectory with the reason ``empty`` or ``unanswered_call``.
        """
        agent_steps = [i for i, step in enumerate(self._steps) if step.source == "agent"]
        if not any(self._steps[i].content.strip() or self._steps[i].tool_calls for i in agent_steps):
            raise MalformedTrajectory("empty", "no step in which the agent says or does anything")
        for call in self._open:
            at_the_end = call.step >= agent_steps[-1]
            if not at_the_end or not (ended or call.call.name in TERMINAL_TOOLS):
                raise MalformedTrajectory(
                    "unanswered_call", f"call {call.call.id!r} of {call.call.name!r} (step {call.step}) has no result"
                )
        if task_id is None:
            task_id = task_named_by(next((s.content for s in self._steps if s.source == "user"), ""))
        return Trajectory.of(
            task_id=task_id,
            format=format,
            steps=tuple(self._steps),
            outcome=outcome,
            tools=dumps(tools) if tools else None,
        )

    def _unique(self, source_id: str | None) -> str:
        """An id for a call: its source's, unless that is missing or was used before in this episode."""
        count = len(self._call_ids)
        name = source_id or f"call_{count}"
        while name in self._call_ids:
            name = f"{source_id or 'call'}_{count}"
            count += 1
        self._call_ids.add(name)
        return name


def task_named_by(text: str) -> str:
    """A task id made of the task's own words: the same words, spaced however, give the same id in every file."""
    return f"text-{hashlib.sha256(' '.join(text.split()).encode()).hexdigest()[:16]}"


def dumps(value: object) -> str:
    """``value`` as compact JSON text, keys in their own order; raises MalformedTrajectory if it nests too deeply."""
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError as error:
        raise MalformedTrajectory("malformed_episode", f"a value cannot be written as JSON: {error}") from error


def as_json(arguments: object) -> str:
    """A call's arguments as JSON text.

    Text that is JSON already stays as the source wrote it; a Python literal (some agents log ``str(dict)``) becomes
    JSON; what is neither is the agent's own mistake, part of its experience, and stays as it is.
    """
    if arguments is None or arguments == "":
        return "{}"
    if not isinstance(arguments, str):
        return dumps(arguments)
    try:
        orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return _literal_as_json(arguments)
    return arguments


def _literal_as_json(text: str) -> str:
    try:
        value: Any = ast.literal_eval(text)
        return dumps(value) if isinstance(value, dict) else text
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text
