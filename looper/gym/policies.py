"""The agents of the gym: an expert that keeps every convention, and agents that make one kind of mistake.

``generate`` and the benchmarks call ``run_expert`` and ``run_noisy``; both run an agent through ``run_episode``.
"""

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from random import Random

from looper.gym.episode import MAX_TURNS, Agent, EpisodeResult, Message, assistant_message, parse_tool_call, run_episode
from looper.gym.simulator import WorkplaceSimulator
from looper.gym.workplace import WorkplaceCall, WorkplaceTask


class Noise(StrEnum):
    """What went wrong in an episode on purpose.

    The trajectories of ``examples/`` do not contain it; benchmarks compare it with what synthesis has found.
    """

    FALSE_START = "false_start"
    """The agent calls a remedy before anything is wrong."""
    WRONG_ARGUMENT = "wrong_argument"
    """The agent writes with a wrong code, and either corrects it or ends the episode."""
    TRANSIENT = "transient"
    """A call times out once, and the agent repeats it."""
    LOOP = "loop"
    """The agent repeats a call that was already answered, and either goes on later or runs out of turns."""
    LUCKY = "lucky"
    """The agent skips a read that the conventions ask for, and nothing goes wrong."""


def expert_agent(task: WorkplaceTask) -> Agent:
    """Return an agent that makes the right call after any history, including another agent's.

    Args:
        task: The task that the agent will work on.

    Returns:
        The agent.
    """

    def act(messages: list[Message], tools: list[Message]) -> Message:
        calls = _calls_in(messages)
        return assistant_message(_replay(task, calls).expected_call(), len(calls))

    return act


def run_expert(task: WorkplaceTask) -> EpisodeResult:
    """Run the expert on a task.

    Args:
        task: The task.

    Returns:
        The episode, which always succeeds.
    """
    return run_episode(task, expert_agent(task))


def run_noisy(task: WorkplaceTask, noise: Noise, rng: Random) -> EpisodeResult:
    """Run an agent that makes one kind of mistake and otherwise knows what the expert knows.

    About half of the episodes with wrong arguments and with loops end in failure.

    Args:
        task: The task.
        noise: The kind of mistake.
        rng: Source of the random choices.

    Returns:
        The episode.
    """
    if noise is Noise.TRANSIENT:
        return run_expert(replace(task, outage=rng.randrange(2)))
    recovers = rng.random() < 0.5
    return run_episode(task, _NOISY_AGENTS[noise](task, recovers, rng))


def possible_noise(task: WorkplaceTask) -> tuple[Noise, ...]:
    """Return the kinds of noise that an episode of a task can contain.

    Args:
        task: The task.

    Returns:
        All kinds, without ``LUCKY`` if the answer of the first read is needed later.
    """
    first = task.workplace.procedure[0]
    can_skip = first.reads and "{" not in first.answer and not task.obstacles
    return tuple(kind for kind in Noise if can_skip or kind is not Noise.LUCKY)


def _false_start(task: WorkplaceTask, recovers: bool, rng: Random) -> Agent:
    remedy = rng.choice(task.workplace.obstacles).remedy.to_call(task.facts)
    return _deviate(task, lambda calls, expected: remedy if not calls else expected)


def _wrong_argument(task: WorkplaceTask, recovers: bool, rng: Random) -> Agent:
    tool, right = list(task.goal.items())[-1]
    wrong = WorkplaceCall(tool, right | _other_code(task, right, rng))

    def choose(calls: list[WorkplaceCall], expected: WorkplaceCall | None) -> WorkplaceCall | None:
        if wrong not in calls:
            return wrong if expected == WorkplaceCall(tool, right) else expected
        return expected if recovers or expected != WorkplaceCall(tool, right) else None

    return _deviate(task, choose)


def _loop(task: WorkplaceTask, recovers: bool, rng: Random) -> Agent:
    repeats = 1 + rng.randint(1, 2) if recovers else MAX_TURNS

    def choose(calls: list[WorkplaceCall], expected: WorkplaceCall | None) -> WorkplaceCall | None:
        return calls[0] if calls and len(calls) < repeats else expected

    return _deviate(task, choose)


def _lucky(task: WorkplaceTask, recovers: bool, rng: Random) -> Agent:
    read = task.workplace.procedure[0].to_call(task.facts)
    write = task.workplace.procedure[1].to_call(task.facts)
    return _deviate(task, lambda calls, expected: write if expected == read else expected)


_NOISY_AGENTS: dict[Noise, Callable[[WorkplaceTask, bool, Random], Agent]] = {
    Noise.FALSE_START: _false_start,
    Noise.WRONG_ARGUMENT: _wrong_argument,
    Noise.LOOP: _loop,
    Noise.LUCKY: _lucky,
}


def _deviate(
    task: WorkplaceTask, choose: Callable[[list[WorkplaceCall], WorkplaceCall | None], WorkplaceCall | None]
) -> Agent:
    """Return an agent whose next call is ``choose(calls so far, the right call)``."""

    def act(messages: list[Message], tools: list[Message]) -> Message:
        calls = _calls_in(messages)
        return assistant_message(choose(calls, _replay(task, calls).expected_call()), len(calls))

    return act


def _other_code(task: WorkplaceTask, arguments: dict[str, str], rng: Random) -> dict[str, str]:
    """Return one of the arguments with another code of its convention."""
    name = rng.choice([name for name in arguments if name in task.workplace.conventions])
    codes = set(task.workplace.conventions[name].codes.values()) - {arguments[name]}
    return {name: rng.choice(sorted(codes))}


def _calls_in(messages: list[Message]) -> list[WorkplaceCall]:
    raw = [call for message in messages for call in message.get("tool_calls", ())]
    return [call for call in map(parse_tool_call, raw) if call is not None]


def _replay(task: WorkplaceTask, calls: list[WorkplaceCall]) -> WorkplaceSimulator:
    simulation = WorkplaceSimulator(task)
    for call in calls:
        simulation.call_tool(call.tool, call.arguments)
    return simulation
