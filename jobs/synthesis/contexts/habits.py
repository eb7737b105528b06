"""Habits: what an instance's agent writes into its calls without having read it anywhere in the episode.

"Fish goes to the dock ``ice``" is a habit: nothing in the request, the tools' answers or the notes says ``ice``. A
habit is what a note may change, and what a wrong demonstration gets wrong. ``render_contexts.py`` uses this module.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from looper.jobs.synthesis.contexts.episodes import find_request
from looper.platform.domain.example import Example, Turn

MAX_VALUE_CHARACTERS = 64
"""A longer value is a text that the agent wrote, and not a habit."""

MAX_VALUES = 64
"""A parameter with more values that several tasks share has names or ids for values, and no habits."""

_WORD = re.compile(r"\w+")


class Parameter(NamedTuple):
    """A parameter of a tool."""

    tool: str
    """Name of the tool."""
    name: str
    """Name of the parameter."""


class Habit(NamedTuple):
    """A value that the agent gives to a parameter out of habit."""

    parameter: Parameter
    """The parameter."""
    value: str
    """The value."""


@dataclass(frozen=True)
class Habits:
    """The habits of one instance."""

    values: Mapping[Parameter, Sequence[str]]
    """The habitual values of each parameter, sorted."""
    words: Mapping[Habit, Sequence[str]]
    """The words of requests that decide for a value: all requests with this value have them, and no other has."""

    def phrase(self, habit: Habit, request: str) -> str:
        """Return the part of a request that decides for a habitual value.

        Args:
            habit: The habit.
            request: The request.

        Returns:
            The longest row of deciding words, as the request has it. An empty text if it has none.
        """
        decisive = set(self.words[habit])
        rows: list[list[re.Match[str]]] = [[]]
        for match in _WORD.finditer(request):
            if match[0].lower() in decisive:
                rows[-1].append(match)
            elif rows[-1]:
                rows.append([])
        longest = max(rows, key=len)
        return request[longest[0].start() : longest[-1].end()] if longest else ""

    def of(self, turns: Sequence[Turn]) -> list[Habit]:
        """Return the habits that an episode shows.

        Args:
            turns: Turns of an example of the instance.

        Returns:
            The habits in the order in which they first appear. What stands in the prompt or in an earlier answer of a
            tool is left out: the agent may have read it there.
        """
        found: dict[Habit, None] = {}
        read: set[str] = set()
        for turn in turns:
            for habit in _list_arguments(turn):
                if habit.value in self.values.get(habit.parameter, ()) and not _contains(read, habit.value):
                    found[habit] = None
            if turn.role != "assistant":
                read |= _words(turn.content)
        return list(found)


def find_habits(examples: Iterable[Example]) -> Habits:
    """Find the habits of an instance: values that a parameter has in two tasks or more.

    Args:
        examples: Examples of the instance.

    Returns:
        The habits. Values that stand in the request of one of their tasks are left out.
    """
    requests: dict[str, set[str]] = {}
    tasks: defaultdict[Habit, set[str]] = defaultdict(set)
    read: set[Habit] = set()
    for example in examples:
        request = requests[example.task_id] = _words(find_request(example.turns))
        for habit in (each for turn in example.turns for each in _list_arguments(turn)):
            tasks[habit].add(example.task_id)
            if _contains(request, habit.value):
                read.add(habit)
    found: defaultdict[Parameter, list[str]] = defaultdict(list)
    for habit in sorted(habit for habit in tasks if len(tasks[habit]) > 1 and habit not in read):
        found[habit.parameter].append(habit.value)
    values = {parameter: each for parameter, each in found.items() if len(each) <= MAX_VALUES}
    words = {}
    for habit in (Habit(parameter, value) for parameter, each in values.items() for value in each):
        others = set().union(
            *(tasks[Habit(habit.parameter, value)] for value in values[habit.parameter] if value != habit.value)
        )
        common = set.intersection(*(requests[task] for task in tasks[habit]))
        words[habit] = sorted(common.difference(*(requests[task] for task in others - tasks[habit])) if others else ())
    return Habits(values, words)


def replace_habit(turns: Iterable[Turn], habit: Habit, value: str) -> tuple[Turn, ...]:
    """Replace a habitual value in an episode: in its calls, and where tools and the agent speak of it afterwards.

    Args:
        turns: Turns of an example.
        habit: The habit.
        value: The new value.

    Returns:
        The turns. Those of the system and of the user are unchanged.
    """
    return tuple(_replace_in_turn(turn, habit, value) for turn in turns)


def _replace_in_turn(turn: Turn, habit: Habit, value: str) -> Turn:
    if turn.role not in ("assistant", "tool"):
        return turn
    whole = re.compile(rf"(?<!\w){re.escape(habit.value)}(?!\w)")
    # In the text of the arguments, so that all else stays as it was written: parsing would change long numbers.
    name, old, new = (json.dumps(each, ensure_ascii=False) for each in (habit.parameter.name, habit.value, value))
    argument = re.compile(rf"({re.escape(name)}\s*:\s*){re.escape(old)}")
    calls = tuple(
        call.model_copy(update={"arguments": argument.sub(lambda match: match[1] + new, call.arguments)})
        if call.name == habit.parameter.tool
        else call
        for call in turn.tool_calls
    )
    return turn.model_copy(update={"content": whole.sub(lambda _: value, turn.content), "tool_calls": calls})


def _list_arguments(turn: Turn) -> Iterable[Habit]:
    """Yield the text arguments of a turn that is to be learned."""
    for call in turn.tool_calls if turn.weight else ():
        for name, value in _parse(call.arguments).items():
            if isinstance(value, str) and 0 < len(value) <= MAX_VALUE_CHARACTERS:
                yield Habit(Parameter(call.name, name), value)


def _parse(arguments: str) -> dict[str, Any]:
    try:
        parsed = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))


def _contains(words: set[str], value: str) -> bool:
    """Whether all words of a value are known, in any order: "Stone, Alice" stands in "Refund Alice Stone"."""
    return _words(value) <= words
