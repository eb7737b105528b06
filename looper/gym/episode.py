"""Run an agent on a task, and judge every step and the end."""

import json
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from looper.gym.simulator import WorkplaceSimulator
from looper.gym.workplace import ExpectedCall, WorkplaceTask

Message = dict[str, Any]
"""A chat message as OpenAI's API writes it; ``arguments`` of a tool call are JSON text."""

Act = Callable[[list[Message], list[Message]], Message]
"""An agent: takes the messages so far and the tools, returns its next ``assistant`` message."""

MAX_TURNS = 8
"""The longest way of an expert (two steps, an obstacle, an outage and the last word) takes 6."""


@dataclass(frozen=True)
class EpisodeTurn:
    """One turn of the agent: its calls (none in the last turn), and whether the conventions asked for just that."""

    calls: tuple[ExpectedCall | None, ...]
    """A call whose arguments are no JSON object is None."""
    correct: bool


@dataclass(frozen=True)
class EpisodeResult:
    """What happened: ``success`` is that the agent ended by itself, in time, with the world as the task wants it."""

    messages: list[Message]
    turns: tuple[EpisodeTurn, ...]
    success: bool

    @property
    def accuracy(self) -> float:
        """Share of turns that were what the conventions asked for at that point."""
        return sum(turn.correct for turn in self.turns) / len(self.turns)


def run_episode(task: WorkplaceTask, act: Act, max_turns: int = MAX_TURNS, *, end_loops: bool = False) -> EpisodeResult:
    """Let ``act`` work on ``task`` until it answers without a call, at most ``max_turns`` times.

    With ``end_loops``, an agent that makes the same calls twice in a row, and is answered the same, has failed: asking
    a model for the rest of its loop costs time and tells nothing.
    """
    asked = episode(task, max_turns, end_loops=end_loops)
    messages = next(asked)
    while True:
        try:
            messages = asked.send(act(messages, task.tools()))
        except StopIteration as ended:
            result: EpisodeResult = ended.value
            return result


def episode(
    task: WorkplaceTask, max_turns: int = MAX_TURNS, *, end_loops: bool = False
) -> Generator[list[Message], Message, EpisodeResult]:
    """``run_episode`` turned inside out, for who asks a model for many episodes at once.

    Yields the messages so far, is sent the agent's next, and returns what happened.
    """
    simulation, messages, turns = WorkplaceSimulator(task), task.messages(), []
    before: tuple[tuple[ExpectedCall | None, ...], list[str]] | None = None
    for _ in range(max_turns):
        expected = simulation.expected()
        answer = yield messages
        raw_calls = answer.get("tool_calls") or []
        messages = [*messages, {"role": "assistant", "content": answer.get("content") or ""}]
        calls = tuple(parse_call(raw) for raw in raw_calls)
        turns.append(EpisodeTurn(calls, calls == (() if expected is None else (expected,))))
        if not calls:
            return EpisodeResult(messages, tuple(turns), simulation.solved)
        messages[-1]["tool_calls"] = raw_calls
        observations = []
        for raw, call in zip(raw_calls, calls, strict=True):
            observation = "E_ARGS" if call is None else simulation.call(call.tool, call.arguments)
            messages.append({"role": "tool", "tool_call_id": raw["id"], "content": observation})
            observations.append(observation)
        if end_loops and (calls, observations) == before:
            break
        before = (calls, observations)
    return EpisodeResult(messages, tuple(turns), success=False)


def parse_call(raw: Message) -> ExpectedCall | None:
    """Read a tool call as OpenAI's API writes it; None if its arguments are no JSON object."""
    function = raw["function"]
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return None
    return ExpectedCall(function["name"], arguments) if isinstance(arguments, dict) else None


def say(call: ExpectedCall | None, number: int) -> Message:
    """Return the assistant message that makes ``call``, the episode's ``number``-th, or that ends the episode."""
    if call is None:
        return {"role": "assistant", "content": "done"}
    function = {"name": call.tool, "arguments": json.dumps(dict(call.arguments))}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": f"call_{number}", "type": "function", "function": function}],
    }
