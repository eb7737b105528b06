"""Run an agent on a task of the gym, and judge every turn and the final state.

The policies, the demo and the benchmarks call ``run_episode``. The tools answer through ``WorkplaceSimulator``.
"""

import json
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from looper.gym.simulator import WorkplaceSimulator
from looper.gym.workplace import Question, WorkplaceCall, WorkplaceTask

Message = dict[str, Any]
"""A chat message in the format of OpenAI's API; the ``arguments`` of a tool call are JSON text."""

Agent = Callable[[list[Message], list[Message]], Message]
"""Takes the messages so far and the tools, and returns the agent's next ``assistant`` message."""


@dataclass(frozen=True)
class EpisodeTurn:
    """One turn of the agent."""

    calls: tuple[WorkplaceCall | None, ...]
    """The calls of this turn; a question and the last turn have none. A call whose arguments are not a JSON object is
    None."""
    correct: bool
    """Whether the conventions asked for exactly these calls, or for this question."""


@dataclass(frozen=True)
class EpisodeResult:
    """What happened in one episode."""

    messages: list[Message]
    """All messages, from the system message to the agent's last one."""
    turns: tuple[EpisodeTurn, ...]
    """The agent's turns, in order."""
    success: bool
    """Whether the agent ended the episode itself, within the turn limit, in the state that the task asks for."""

    @property
    def is_strict_success(self) -> bool:
        """Whether the episode succeeded and each of its turns did what the conventions asked for."""
        return self.success and all(turn.correct for turn in self.turns)

    @property
    def accuracy(self) -> float:
        """Share of turns that did what the conventions asked for at that point, from 0 to 1."""
        return sum(turn.correct for turn in self.turns) / len(self.turns)


def run_episode(
    task: WorkplaceTask, agent: Agent, max_turns: int | None = None, *, end_loops: bool = False
) -> EpisodeResult:
    """Let an agent work on a task until it answers without a tool call or a question that the user answers.

    Args:
        task: The task.
        agent: The agent.
        max_turns: Number of turns after which the episode has failed. None: the ``turn_limit`` of the task.
        end_loops: End the episode as failed when the agent makes the same calls twice in a row and gets the same
            answers. Asking a model for the rest of its loop costs time and shows nothing new.

    Returns:
        The messages, the judged turns and the outcome.
    """
    steps = episode_steps(task, max_turns, end_loops=end_loops)
    messages = next(steps)
    while True:
        try:
            messages = steps.send(agent(messages, task.tools()))
        except StopIteration as stop:
            result: EpisodeResult = stop.value
            return result


def episode_steps(
    task: WorkplaceTask, max_turns: int | None = None, *, end_loops: bool = False
) -> Generator[list[Message], Message, EpisodeResult]:
    """Run an episode as a generator, so that a caller can batch the model requests of many episodes.

    Args:
        task: The task.
        max_turns: Number of turns after which the episode has failed. None: the ``turn_limit`` of the task.
        end_loops: As in ``run_episode``.

    Yields:
        The messages so far. The caller sends the agent's next message.

    Returns:
        The messages, the judged turns and the outcome.
    """
    simulation, messages, turns = WorkplaceSimulator(task), task.messages(), []
    previous: tuple[tuple[WorkplaceCall | None, ...], list[str]] | None = None
    for _ in range(max_turns or task.turn_limit):
        expected, question = simulation.expected_call(), simulation.expected_question()
        answer = yield messages
        raw_calls = answer.get("tool_calls") or []
        messages = [*messages, {"role": "assistant", "content": answer.get("content") or ""}]
        calls = tuple(parse_tool_call(raw) for raw in raw_calls)
        asked = None if calls else simulation.ask_user(messages[-1]["content"])
        is_expected = calls == (() if expected is None else (expected,)) and asked == question
        turns.append(EpisodeTurn(calls, is_expected))
        if asked is not None:
            messages.append({"role": "user", "content": task.facts[asked.fact]})
            previous = None
            continue
        if not calls:
            return EpisodeResult(messages, tuple(turns), simulation.is_solved)
        messages[-1]["tool_calls"] = raw_calls
        observations = []
        for raw, call in zip(raw_calls, calls, strict=True):
            observation = "E_ARGS" if call is None else simulation.call_tool(call.tool, call.arguments)
            messages.append({"role": "tool", "tool_call_id": raw["id"], "content": observation})
            observations.append(observation)
        if end_loops and (calls, observations) == previous:
            break
        previous = (calls, observations)
    return EpisodeResult(messages, tuple(turns), success=False)


def parse_tool_call(raw: Message) -> WorkplaceCall | None:
    """Parse a tool call in the format of OpenAI's API.

    Args:
        raw: One element of a message's ``tool_calls``.

    Returns:
        The call, or None if its arguments are not a JSON object.
    """
    function = raw["function"]
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return None
    return WorkplaceCall(function["name"], arguments) if isinstance(arguments, dict) else None


def assistant_message(call: WorkplaceCall | Question | None, number: int) -> Message:
    """Return the assistant message that makes a call, asks the user, or ends the episode.

    Args:
        call: The call or the question; None to end the episode.
        number: Number of the call in its episode, from 0; it becomes part of the call's id.

    Returns:
        A message in the format of OpenAI's API.
    """
    if call is None:
        return {"role": "assistant", "content": "done"}
    if isinstance(call, Question):
        return {"role": "assistant", "content": call.text}
    function = {"name": call.tool, "arguments": json.dumps(dict(call.arguments))}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": f"call_{number}", "type": "function", "function": function}],
    }
