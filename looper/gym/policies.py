"""The agents of the gym: an expert that keeps every convention, and agents that make one kind of mistake.

``generate`` and the benchmarks call ``run_expert`` and ``run_noisy``; both run an agent through ``run_episode``.
"""

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from random import Random

from looper.gym.episode import Agent, EpisodeResult, Message, assistant_message, parse_tool_call, run_episode
from looper.gym.simulator import WorkplaceSimulator
from looper.gym.workplace import Question, WorkplaceCall, WorkplaceTask


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
    MISREAD = "misread"
    """The agent takes a word of the task for another one, and writes the wrong code."""
    IGNORED_CASE = "ignored_case"
    """The agent follows a rule where a special case applies."""
    GUESS = "guess"
    """The agent does not ask the user, and guesses wrong."""
    DISTRACTOR = "distractor"
    """The agent calls a tool that is never right, and then goes on."""
    GAVE_UP = "gave_up"
    """The agent ends the episode in the middle."""


_SLIPS = (Noise.FALSE_START, Noise.WRONG_ARGUMENT, Noise.TRANSIENT, Noise.LOOP, Noise.LUCKY)
"""Noise that an episode can survive."""

_Next = WorkplaceCall | Question | None
"""What an agent does next: a call, a question to the user, or the end."""


def expert_agent(task: WorkplaceTask) -> Agent:
    """Return an agent that makes the right call after any history, including another agent's.

    Args:
        task: The task that the agent will work on.

    Returns:
        The agent.
    """

    def act(messages: list[Message], tools: list[Message]) -> Message:
        return assistant_message(_find_next(task, messages), len(_calls_in(messages)))

    return act


def run_expert(task: WorkplaceTask) -> EpisodeResult:
    """Run the expert on a task.

    Args:
        task: The task.

    Returns:
        The episode, which always succeeds.
    """
    return run_episode(task, expert_agent(task))


def run_noisy(task: WorkplaceTask, noise: Noise, rng: Random, *, recovers: bool | None = None) -> EpisodeResult:
    """Run an agent that makes one kind of mistake and otherwise knows what the expert knows.

    Args:
        task: The task.
        noise: The kind of mistake, one of ``possible_noise`` or ``possible_failures``.
        rng: Source of the random choices.
        recovers: Whether the agent of a wrong argument or of a loop gets out of it. None: in about half of the
            episodes. Otherwise these end in failure. The other kinds always fail, or never.

    Returns:
        The episode.
    """
    if noise is Noise.TRANSIENT:
        return run_expert(replace(task, outage=rng.randrange(2)))
    if recovers is None:
        recovers = rng.random() < 0.5
    return run_episode(task, _NOISY_AGENTS[noise](task, recovers, rng))


def possible_noise(task: WorkplaceTask) -> tuple[Noise, ...]:
    """Return the kinds of noise that an episode of a task can contain and survive.

    Args:
        task: The task.

    Returns:
        The kinds, without ``LUCKY`` if the answer of the first read is needed later.
    """
    first = task.workplace.procedure[0]
    can_skip = first.reads and "{" not in first.answer and not task.obstacles
    return tuple(kind for kind in _SLIPS if can_skip or kind is not Noise.LUCKY)


def possible_failures(task: WorkplaceTask) -> tuple[Noise, ...]:
    """Return the kinds of noise that can make an episode of a task fail.

    Args:
        task: The task.

    Returns:
        The kinds. Some need a special case that applies, a question, or a distractor.
    """
    place = task.workplace
    is_possible = {
        Noise.WRONG_ARGUMENT: True,
        Noise.LOOP: True,
        Noise.MISREAD: True,
        Noise.IGNORED_CASE: bool(_find_usual_codes(task)),
        Noise.GUESS: bool(place.questions),
        Noise.DISTRACTOR: bool(place.distractors),
        Noise.GAVE_UP: True,
    }
    return tuple(kind for kind, possible in is_possible.items() if possible)


def _false_start(task: WorkplaceTask, recovers: bool, rng: Random) -> Agent:
    remedy = rng.choice(task.workplace.obstacles).remedy.to_call(task.facts)
    return _deviate(task, lambda calls, expected: remedy if not calls else expected)


def _wrong_argument(task: WorkplaceTask, recovers: bool, rng: Random) -> Agent:
    tool, right = list(task.goal.items())[-1]
    wrong = WorkplaceCall(tool, right | _other_code(task, right, rng))

    def choose(calls: list[WorkplaceCall], expected: _Next) -> _Next:
        if wrong not in calls:
            return wrong if expected == WorkplaceCall(tool, right) else expected
        return expected if recovers or expected != WorkplaceCall(tool, right) else None

    return _deviate(task, choose)


def _loop(task: WorkplaceTask, recovers: bool, rng: Random) -> Agent:
    repeats = 1 + rng.randint(1, 2) if recovers else task.turn_limit

    def choose(calls: list[WorkplaceCall], expected: _Next) -> _Next:
        return calls[0] if calls and len(calls) < repeats else expected

    return _deviate(task, choose)


def _lucky(task: WorkplaceTask, recovers: bool, rng: Random) -> Agent:
    read = task.workplace.procedure[0].to_call(task.facts)
    write = task.workplace.procedure[1].to_call(task.facts)
    return _deviate(task, lambda calls, expected: write if expected == read else expected)


def _misread(task: WorkplaceTask, recovers: bool, rng: Random) -> Agent:
    name, convention = rng.choice(list(task.workplace.conventions.items()))
    codes = set(convention.codes.values()) - {task.facts[name]}
    return _believe(task, {name: rng.choice(sorted(codes))})


def _ignore_case(task: WorkplaceTask, recovers: bool, rng: Random) -> Agent:
    return _believe(task, _find_usual_codes(task))


def _guess(task: WorkplaceTask, recovers: bool, rng: Random) -> Agent:
    asked = {question.fact for question in task.workplace.questions}
    guessed = {}
    for name, convention in task.workplace.conventions.items():
        if convention.fact in asked:
            codes = set(convention.codes.values()) - {task.facts[name]}
            guessed[name] = rng.choice(sorted(codes))
    return _believe(replace(task, workplace=replace(task.workplace, questions=())), guessed)


def _call_distractor(task: WorkplaceTask, recovers: bool, rng: Random) -> Agent:
    known = dict(item for step in task.workplace.procedure for item in step.to_call(task.facts).arguments.items())
    name = rng.choice(task.workplace.distractors)
    tool = next(tool for tool in task.workplace.tools if tool.name == name)
    wrong = WorkplaceCall(tool.name, {parameter: known[parameter] for parameter in tool.parameters})
    start = rng.randrange(1, len(task.workplace.procedure))
    return _deviate(task, lambda calls, expected: wrong if len(calls) >= start and wrong not in calls else expected)


def _give_up(task: WorkplaceTask, recovers: bool, rng: Random) -> Agent:
    end = rng.randrange(1, len(task.workplace.procedure))
    return _deviate(task, lambda calls, expected: None if len(calls) >= end else expected)


_NOISY_AGENTS: dict[Noise, Callable[[WorkplaceTask, bool, Random], Agent]] = {
    Noise.FALSE_START: _false_start,
    Noise.WRONG_ARGUMENT: _wrong_argument,
    Noise.LOOP: _loop,
    Noise.LUCKY: _lucky,
    Noise.MISREAD: _misread,
    Noise.IGNORED_CASE: _ignore_case,
    Noise.GUESS: _guess,
    Noise.DISTRACTOR: _call_distractor,
    Noise.GAVE_UP: _give_up,
}


def _deviate(task: WorkplaceTask, choose: Callable[[list[WorkplaceCall], _Next], _Next]) -> Agent:
    """Return an agent that does ``choose(calls so far, what is right)``."""

    def act(messages: list[Message], tools: list[Message]) -> Message:
        calls = _calls_in(messages)
        return assistant_message(choose(calls, _find_next(task, messages)), len(calls))

    return act


def _believe(task: WorkplaceTask, facts: dict[str, str]) -> Agent:
    """Return an agent that is an expert, but has some facts of the task wrong."""
    return expert_agent(replace(task, facts={**task.facts, **facts}))


def _find_usual_codes(task: WorkplaceTask) -> dict[str, str]:
    """Return what the codes that special cases decide would be without them."""
    conventions = task.workplace.conventions.items()
    usual = {name: convention.codes[task.facts[convention.fact]] for name, convention in conventions}
    return {name: code for name, code in usual.items() if task.facts[name] != code}


def _other_code(task: WorkplaceTask, arguments: dict[str, str], rng: Random) -> dict[str, str]:
    """Return one of the arguments with another code of its convention."""
    name = rng.choice([name for name in arguments if name in task.workplace.conventions])
    codes = set(task.workplace.conventions[name].codes.values()) - {arguments[name]}
    return {name: rng.choice(sorted(codes))}


def _calls_in(messages: list[Message]) -> list[WorkplaceCall]:
    raw = [call for message in messages for call in message.get("tool_calls", ())]
    return [call for call in map(parse_tool_call, raw) if call is not None]


def _find_next(task: WorkplaceTask, messages: list[Message]) -> _Next:
    """Return what the conventions ask for after a history."""
    simulation = WorkplaceSimulator(task)
    for message in messages:
        calls = _calls_in([message])
        for call in calls:
            simulation.call_tool(call.tool, call.arguments)
        if message["role"] == "assistant" and not calls:
            simulation.ask_user(message["content"])
    return simulation.expected_question() or simulation.expected_call()
