"""Examples of a workplace with two habits: the goods decide the dock, the urgency the lane."""

import json
from collections.abc import Sequence

from looper.jobs.synthesis.contexts.notes import add_notes
from looper.platform.domain.example import Example, Turn
from looper.platform.domain.trajectory import ToolCall

DOCKS = {"fish": "ice", "timber": "yard"}
LANES = {"tonight": "fast", "next week": "slow"}


def ship(order: int, goods: str, urgency: str, *, dock: str | None = None, notes: str = "") -> Example:
    """Return the example of a task: the agent opens an order and books it."""
    ref = f"HD-{order}"
    turns: tuple[Turn, ...] = (
        Turn(role="system", content="Dispatch."),
        Turn(role="user", content=f"Ship order {order}, {goods}, {urgency}."),
        call("open", ref=ref),
        Turn(role="tool", content="opened", call_id="open"),
        call("book", ref=ref, dock=dock or DOCKS[goods], lane=LANES[urgency]),
        Turn(role="tool", content=f"booked at {dock or DOCKS[goods]}", call_id="book"),
        Turn(role="assistant", content="done", weight=1.0),
    )
    if notes:
        turns = add_notes(turns, notes)
    id = f"{order}"
    return Example(id=id, trajectory_id=id, task_id=f"task-{order}", turns=turns)


def call(tool: str, weight: float = 1.0, **arguments: str) -> Turn:
    made = ToolCall(id=tool, name=tool, arguments=json.dumps(arguments))
    return Turn(role="assistant", tool_calls=(made,), weight=weight)


def shipments(notes: Sequence[str] = ()) -> list[Example]:
    """Return eight examples, two of each kind. The first ones have notes."""
    kinds = [(goods, urgency) for goods in DOCKS for urgency in LANES] * 2
    return [
        ship(4711 + number, *kind, notes=notes[number] if number < len(notes) else "")
        for number, kind in enumerate(kinds)
    ]
