"""Episodes written down in a line each, for the tests of stages."""

import json
from typing import Any

from looper.jobs.synthesis.draft import Draft
from looper.platform.domain.trajectory import Outcome, Step, ToolCall, Trajectory

TOOLS = json.dumps([{"type": "function", "function": {"name": "book", "parameters": {"properties": {}}}}])


def call(tool: str, **arguments: Any) -> tuple[str, dict[str, Any]]:
    """A step of the agent that makes one call."""
    return tool, arguments


def play(
    *steps: str | tuple[str, dict[str, Any]],
    task: str = "t",
    success: bool | None = True,
    request: str = "Book 7.",
    detail: str = "{}",
) -> Trajectory:
    """A user asks; then calls, each followed by its answer (a text), and texts that no call precedes: the agent's."""
    made = [Step(source="system", content="You book rooms."), Step(source="user", content=request)]
    open_call: str | None = None
    for number, step in enumerate(steps):
        if isinstance(step, tuple):
            open_call = f"c{number}"
            made.append(
                Step(source="agent", tool_calls=(ToolCall(id=open_call, name=step[0], arguments=json.dumps(step[1])),))
            )
        elif open_call:
            made.append(Step(source="tool", content=step, call_id=open_call))
            open_call = None
        else:
            made.append(Step(source="agent", content=step))
    outcome = Outcome(success=success, detail=detail)
    return Trajectory.of(task_id=task, format="test", steps=tuple(made), outcome=outcome, tools=TOOLS)


def draft(*steps: str | tuple[str, dict[str, Any]], labelled: bool = True, **more: Any) -> Draft:
    return Draft.of(play(*steps, **more), labelled=labelled)
