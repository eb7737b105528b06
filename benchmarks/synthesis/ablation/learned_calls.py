"""Measure what training data teaches, without training: the share of its learned calls that are wrong or repeated.

``report.py`` calls it for every variant.
"""

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

from looper.gym.simulator import WorkplaceSimulator
from looper.gym.workplace import Workplace, WorkplaceCall
from looper.platform.domain.example import Example
from looper.platform.domain.trajectory import ToolCall


@dataclass(frozen=True)
class LearnedCalls:
    """Shares of the calls that a skill learns. Each call counts with its weight."""

    wrong: float
    """Share of calls that the workplace's rules do not require at that point."""
    repeated: float
    """Share of calls that repeat the call before, although the answer was the same."""


def measure_learned_calls(examples: Sequence[Example], workplace: Workplace, seed: int) -> LearnedCalls:
    """Compare the calls in training examples with the rules of the workplace.

    Args:
        examples: Training examples from episodes of ``workplace``.
        workplace: The workplace.
        seed: Seed of the tasks.

    Returns:
        The shares over all examples.
    """
    calls = [call for example in examples for call in _classify_calls(example, workplace, seed)]
    total_weight = sum(weight for weight, _, _ in calls)
    return LearnedCalls(
        wrong=sum(weight for weight, is_wrong, _ in calls if is_wrong) / total_weight,
        repeated=sum(weight for weight, _, is_repeated in calls if is_repeated) / total_weight,
    )


def _classify_calls(example: Example, workplace: Workplace, seed: int) -> list[tuple[float, bool, bool]]:
    """Return for each call its weight, whether it is wrong, and whether it is repeated."""
    simulation, classified = WorkplaceSimulator(workplace.task(example.task_id, seed)), []
    answers = {turn.call_id: turn.content for turn in example.turns if turn.role == "tool"}
    previous: tuple[WorkplaceCall, str | None] | None = None
    for turn in example.turns:
        for tool_call in turn.tool_calls:
            call, answer = _parse_call(tool_call), answers.get(tool_call.id)
            classified.append((turn.weight, call != simulation.expected_call(), (call, answer) == previous))
            # With another answer, the tool timed out or had a bug in the episode, so the call had no effect there.
            if deepcopy(simulation).call_tool(call.tool, call.arguments) == answer:
                simulation.call_tool(call.tool, call.arguments)
            previous = (call, answer)
    return classified


def _parse_call(tool_call: ToolCall) -> WorkplaceCall:
    try:
        arguments = json.loads(tool_call.arguments)
    except ValueError:
        arguments = None
    return WorkplaceCall(tool_call.name, arguments if isinstance(arguments, dict) else {})
