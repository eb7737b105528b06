"""What training data teaches, told without training: which of its learned calls the house asks for at that point."""

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

from looper.gym.simulator import WorkplaceSimulator
from looper.gym.workplace import ExpectedCall, Workplace
from looper.platform.domain.example import Example
from looper.platform.domain.trajectory import ToolCall


@dataclass(frozen=True)
class Taught:
    """Shares of the learned calls, each counted by its weight."""

    wrong: float
    """Not what the house asks for at that point."""
    repeated: float
    """The call before once more, though it was answered the same."""


def taught(examples: Sequence[Example], place: Workplace, seed: int) -> Taught:
    """Of what ``examples``, made of episodes of ``place`` with ``seed``, have a skill learn."""
    calls = [each for example in examples for each in _judged(example, place, seed)]
    whole = sum(weight for weight, _, _ in calls)
    return Taught(
        wrong=sum(weight for weight, wrong, _ in calls if wrong) / whole,
        repeated=sum(weight for weight, _, repeated in calls if repeated) / whole,
    )


def _judged(example: Example, place: Workplace, seed: int) -> list[tuple[float, bool, bool]]:
    """Of each call its weight, whether it is wrong, and whether it is repeated."""
    simulation, found = WorkplaceSimulator(place.task(example.task_id, seed)), []
    answers = {turn.call_id: turn.content for turn in example.turns if turn.role == "tool"}
    before: tuple[ExpectedCall, str | None] | None = None
    for turn in example.turns:
        for raw in turn.tool_calls:
            call, answer = _read(raw), answers.get(raw.id)
            found.append((turn.weight, call != simulation.expected(), (call, answer) == before))
            if deepcopy(simulation).call(call.tool, call.arguments) == answer:  # else its tool was down, or broken
                simulation.call(call.tool, call.arguments)
            before = (call, answer)
    return found


def _read(raw: ToolCall) -> ExpectedCall:
    try:
        arguments = json.loads(raw.arguments)
    except ValueError:
        arguments = None
    return ExpectedCall(raw.name, arguments if isinstance(arguments, dict) else {})
