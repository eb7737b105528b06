"""Short notation for episodes, for the tests of stages."""

import json
from typing import Any

from looper.jobs.synthesis.draft import Draft
from looper.platform.domain.trajectory import Outcome, Step, ToolCall, Trajectory

TOOLS = json.dumps([{"type": "function", "function": {"name": "book", "parameters": {"properties": {}}}}])


def call(tool: str, **arguments: Any) -> tuple[str, dict[str, Any]]:
    """Return a step of the agent with one tool call."""
    return tool, arguments


def play(
    *steps: str | tuple[str, dict[str, Any]],
    task: str = "t",
    success: bool | None = True,
    request: str = "Book 7.",
    detail: str = "{}",
) -> Trajectory:
    """Return an episode: a request of the user, then ``steps``.

    A tuple is a tool call. A text directly after a call is its result; other texts are the agent's.
    """
    trajectory_steps = [Step(source="system", content="You book rooms."), Step(source="user", content=request)]
    open_call: str | None = None
    for number, step in enumerate(steps):
        if isinstance(step, tuple):
            open_call = f"c{number}"
            trajectory_steps.append(
                Step(source="agent", tool_calls=(ToolCall(id=open_call, name=step[0], arguments=json.dumps(step[1])),))
            )
        elif open_call:
            trajectory_steps.append(Step(source="tool", content=step, call_id=open_call))
            open_call = None
        else:
            trajectory_steps.append(Step(source="agent", content=step))
    outcome = Outcome(success=success, detail=detail)
    return Trajectory.create(task_id=task, format="test", steps=tuple(trajectory_steps), outcome=outcome, tools=TOOLS)


def draft(*steps: str | tuple[str, dict[str, Any]], has_labels: bool = True, **episode: Any) -> Draft:
    """Return the draft of an episode in this notation."""
    return Draft.from_trajectory(play(*steps, **episode), has_labels=has_labels)
