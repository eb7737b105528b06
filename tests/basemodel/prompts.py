"""Prompts that were trained, and those that an engine is asked, of the same history."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from looper.jobs.consolidation.data.encode import ExampleEncoder
from looper.jobs.consolidation.data.window import Window
from looper.platform.domain.example import Example


def learned_prompts(windows: list[Window]) -> Counter[tuple[int, ...]]:
    """Return what comes before each learned turn."""
    found: Counter[tuple[int, ...]] = Counter()
    for window in windows:
        learned = [place in set(window.target_places.tolist()) for place in range(len(window))]
        starts = [place for place in range(1, len(window)) if learned[place] and not learned[place - 1]]
        found.update(tuple(window.tokens[:place].tolist()) for place in starts)
    return found


def asked_prompts(
    render: Callable[[dict[str, Any]], list[int] | None], encoder: ExampleEncoder, example: Example
) -> Counter[tuple[int, ...]]:
    """Return what the engine would be asked before each turn of the agent."""
    messages = [encoder._message(turn) for turn in example.turns]
    found: Counter[tuple[int, ...]] = Counter()
    for index, turn in enumerate(example.turns):
        if turn.weight:
            body: dict[str, Any] = {"messages": messages[:index]}
            if example.tools:
                body["tools"] = json.loads(example.tools)
            prompt = render(body)
            if prompt is not None:
                found[tuple(prompt)] += 1
    return found
