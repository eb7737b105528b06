"""What an agent did, step by step: a call, what it was called with, and what came back."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import orjson

from looper.jobs.synthesis.draft import Error, Placed
from looper.platform.domain.trajectory import ToolCall

DEEPEST = 100
"""Of arguments that are read. What is nested deeper is taken as text: it could not be gone through and written."""

_READS = re.compile(
    r"^(get|list|search|find|read|view|show|look|lookup|check|fetch|query|describe|calculate|think|count|status|track"
    r"|history|verify|validate|preview|report|audit|open_file|cat|ls|pwd|grep|goto|scroll|open)(_|$)",
    re.IGNORECASE,
)
"""Tools that leave the world as it was, by the first word of their names."""

_ENDS = re.compile(r"^(transfer|finish|submit|done|exit)(_|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Action:
    """One step of the agent that makes calls, with the answers that it got."""

    at: int
    """Index of the agent's step in the draft's steps."""
    answers: tuple[int, ...]
    """Indices of the steps that answer it, in order."""
    signature: tuple[str, ...]
    """Of each call: the same for calls of one tool with equal arguments."""
    observed: tuple[str, ...]
    errors: tuple[Error | None, ...]
    calls: tuple[ToolCall, ...]
    segment: int

    @property
    def failed(self) -> bool:
        """All of its calls did."""
        return bool(self.errors) and None not in self.errors

    @property
    def writes(self) -> bool:
        """Whether a call that changes something was accepted."""
        return any(error is None and not reads(call.name) for call, error in zip(self.calls, self.errors, strict=False))


def actions(steps: Sequence[Placed]) -> list[Action]:
    """Those of the agent, in order; calls of the user's own are not the agent's."""
    answered = {
        each.step.call_id: at for at, each in enumerate(steps) if each.step.source == "tool" and each.step.call_id
    }
    return list(_actions(steps, answered))


def _actions(steps: Sequence[Placed], answered: dict[str, int]) -> Iterator[Action]:
    for at, each in enumerate(steps):
        calls = each.step.tool_calls
        if each.step.source != "agent" or not calls:
            continue
        answers = tuple(answered[call.id] for call in calls if call.id in answered)
        yield Action(
            at=at,
            answers=answers,
            signature=tuple(signature(call) for call in calls),
            observed=tuple(steps[answer].step.content for answer in answers),
            errors=tuple(steps[answer].error for answer in answers),
            calls=calls,
            segment=each.segment,
        )


def signature(call: ToolCall) -> str:
    """The same for calls of one tool whose arguments are equal, in whatever order and with whatever spaces."""
    return f"{call.name} {_sorted(call.arguments)}"


@lru_cache(maxsize=256)  # every stage of an episode asks again
def _sorted(arguments: str) -> str:
    found = _object(arguments)
    return " ".join(arguments.split()) if found is None else orjson.dumps(found, option=orjson.OPT_SORT_KEYS).decode()


def parsed(call: ToolCall) -> dict[str, object] | None:
    """Its arguments, or None if they are no JSON object, or one that is nested deeper than ``DEEPEST``."""
    return _object(call.arguments)


def _object(text: str) -> dict[str, object] | None:
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) and not _too_deep(text, found) else None


def _too_deep(text: str, value: object) -> bool:
    if text.count("{") + text.count("[") <= DEEPEST:
        return False
    level = [value]
    for _ in range(DEEPEST):
        nested = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        level = [inner for each in nested for inner in each]
    return bool(level)


def reads(tool: str) -> bool:
    """Whether a tool only looks, as far as its name says."""
    return bool(_READS.match(tool))


def ends(tool: str) -> bool:
    """Whether a tool only ends the episode."""
    return bool(_ENDS.match(tool))
