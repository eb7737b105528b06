"""Chat histories as agents have them, with what is odd in them: a generated corpus, the same each time."""

import json
from random import Random
from typing import Any

from looper.platform.domain.example import Example, Turn
from looper.platform.domain.trajectory import ToolCall

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "find_order",
            "description": "Find an order.",
            "parameters": {
                "type": "object",
                "properties": {"id": {"type": "integer"}, "note": {"type": "string"}},
                "required": ["id"],
            },
        },
    },
    {"type": "function", "function": {"name": "refund", "parameters": {"type": "object", "properties": {}}}},
    {
        "type": "function",
        "function": {
            "name": "nested",
            "description": 'Ünï <b>"quoted"</b>\n\nlines',
            "parameters": {
                "type": "object",
                "properties": {"items": {"type": "array", "items": {"type": "object"}}, "flag": {"type": "boolean"}},
                "additionalProperties": False,
            },
            "strict": True,
        },
        "extra": {"kept": False},
    },
]

TEXTS = [
    "Hello.",
    "Please refund order 9400111899223346213487.",
    "Zwei Zeilen:\n\n- eins\n- zwei",
    "日本語と 🦙 und ﷽",
    "  spaces around  ",
    'JSON: {"a": [1, 2, {"b": null}]}',
    "<b>tags</b> & 'quotes' \"double\" \\ backslash",
    "A long text. " * 20,
]

ARGUMENTS: list[dict[str, Any]] = [
    {"id": 1},
    {"id": 2**64 + 5, "note": "long"},
    {"id": 9400111899223346213487},
    {"id": -3, "note": '日本 "q" \n x'},
    {"note": ""},
    {},
    {"items": [{"a": 1.5}, {"b": [True, None]}], "flag": False},
]


def make_history(seed: int) -> Example:
    """Make one history. Its agent's turns have weight 1."""
    rng = Random(seed)
    turns: list[Turn] = []
    if rng.random() < 0.6:
        turns.append(Turn(role="system", content=rng.choice(TEXTS)))
        if rng.random() < 0.15:
            turns.append(Turn(role=rng.choice(["system", "developer"]), content="More rules."))
    elif rng.random() < 0.2:
        turns.append(Turn(role="developer", content="Rules of the developer."))
    call_number = 0
    for _ in range(rng.randint(1, 4)):
        turns.append(Turn(role="user", content=rng.choice(TEXTS)))
        if rng.random() < 0.08:
            turns.append(Turn(role="user", content="And this."))
        if rng.random() < 0.05:
            turns.append(Turn(role="developer", content="A rule in the middle."))
        for _ in range(rng.choice([0, 1, 1, 2])):
            calls = []
            for _ in range(rng.choice([1, 1, 1, 2])):
                call_number += 1
                name, arguments = rng.choice(["find_order", "refund", "nested"]), rng.choice(ARGUMENTS)
                text = json.dumps(arguments, ensure_ascii=rng.random() < 0.5)
                if rng.random() < 0.04:
                    text = rng.choice(["not json", "{'id': 1}", "[1]", ""])
                calls.append(ToolCall(id=f"call{call_number:05d}", name=name, arguments=text))
            turns.append(
                Turn(
                    role="assistant",
                    content=rng.choice(["", "", "I look.", "Zwei\nZeilen"]),
                    reasoning=rng.choice(["", "", "They want it.\nSo I look."]),
                    tool_calls=tuple(calls),
                    weight=1.0,
                )
            )
            turns += [
                Turn(role="tool", content=rng.choice(["ok", "Error: not found", '{"id": 12}', ""]), call_id=call.id)
                for call in calls
            ]
        turns.append(
            Turn(
                role="assistant",
                content=rng.choice([*TEXTS, "Done."]),
                reasoning=rng.choice(["", "", "I am done."]),
                weight=1.0,
            )
        )
    tools = None if rng.random() < 0.15 else json.dumps(rng.sample(TOOLS, rng.randint(1, 3)))
    return Example(id=f"e{seed}", trajectory_id="t", task_id="t", turns=tuple(turns), tools=tools)
