"""Who works in the gym: an expert who keeps every convention, and one who gets there less cleanly."""

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from random import Random

from looper.gym.episode import MAX_TURNS, Act, EpisodeResult, Message, parse_call, run_episode, say
from looper.gym.simulator import WorkplaceSimulator
from looper.gym.workplace import ExpectedCall, WorkplaceTask


class Noise(StrEnum):
    """What went wrong in an episode on purpose. The trajectories that ship do not tell; who measures cleaning asks."""

    FALSE_START = "false_start"
    """Reaches for a remedy before anything is wrong."""
    WRONG_ARGUMENT = "wrong_argument"
    """Writes with a wrong code; sees it and writes again, or leaves it so."""
    TRANSIENT = "transient"
    """A call times out once; the agent repeats it."""
    LOOP = "loop"
    """Repeats a call that was already answered; gets out of it after a while, or runs out of turns."""
    LUCKY = "lucky"
    """Skips the read that the house asks for, and nothing happens."""


def expert(task: WorkplaceTask) -> Act:
    """Return the agent that makes the right call for ``task`` from any history, also another agent's."""

    def act(messages: list[Message], tools: list[Message]) -> Message:
        made = _calls(messages)
        return say(_replay(task, made).expected(), len(made))

    return act


def run_expert(task: WorkplaceTask) -> EpisodeResult:
    """Let the expert do ``task``."""
    return run_episode(task, expert(task))


def run_noisy(task: WorkplaceTask, noise: Noise, rng: Random) -> EpisodeResult:
    """Let an agent do ``task`` that makes one kind of mistake and otherwise knows what the expert knows.

    Half of the wrong arguments and of the loops end in failure.
    """
    if noise is Noise.TRANSIENT:
        return run_expert(replace(task, outage=rng.randrange(2)))
    recovers = rng.random() < 0.5
    return run_episode(task, _ERRING[noise](task, recovers, rng))


def kinds_of_noise(task: WorkplaceTask) -> tuple[Noise, ...]:
    """Return the kinds of noise that ``task`` can have: nobody skips a read whose answer is needed."""
    first = task.workplace.procedure[0]
    can_skip = first.reads and "{" not in first.answer and not task.obstacles
    return tuple(kind for kind in Noise if can_skip or kind is not Noise.LUCKY)


def _false_start(task: WorkplaceTask, recovers: bool, rng: Random) -> Act:
    remedy = rng.choice(task.workplace.obstacles).remedy.call(task.facts)
    return _deviate(task, lambda made, expected: remedy if not made else expected)


def _wrong_argument(task: WorkplaceTask, recovers: bool, rng: Random) -> Act:
    tool, right = list(task.goal.items())[-1]
    wrong = ExpectedCall(tool, right | _other_code(task, right, rng))

    def choose(made: list[ExpectedCall], expected: ExpectedCall | None) -> ExpectedCall | None:
        if wrong not in made:
            return wrong if expected == ExpectedCall(tool, right) else expected
        return expected if recovers or expected != ExpectedCall(tool, right) else None

    return _deviate(task, choose)


def _loop(task: WorkplaceTask, recovers: bool, rng: Random) -> Act:
    repeats = 1 + rng.randint(1, 2) if recovers else MAX_TURNS

    def choose(made: list[ExpectedCall], expected: ExpectedCall | None) -> ExpectedCall | None:
        return made[0] if made and len(made) < repeats else expected

    return _deviate(task, choose)


def _lucky(task: WorkplaceTask, recovers: bool, rng: Random) -> Act:
    read = task.workplace.procedure[0].call(task.facts)
    write = task.workplace.procedure[1].call(task.facts)
    return _deviate(task, lambda made, expected: write if expected == read else expected)


_ERRING: dict[Noise, Callable[[WorkplaceTask, bool, Random], Act]] = {
    Noise.FALSE_START: _false_start,
    Noise.WRONG_ARGUMENT: _wrong_argument,
    Noise.LOOP: _loop,
    Noise.LUCKY: _lucky,
}


def _deviate(
    task: WorkplaceTask, choose: Callable[[list[ExpectedCall], ExpectedCall | None], ExpectedCall | None]
) -> Act:
    """Return the agent whose next call is ``choose(calls made so far, the right call)``."""

    def act(messages: list[Message], tools: list[Message]) -> Message:
        made = _calls(messages)
        return say(choose(made, _replay(task, made).expected()), len(made))

    return act


def _other_code(task: WorkplaceTask, arguments: dict[str, str], rng: Random) -> dict[str, str]:
    """Return one argument of ``arguments`` with another code of the convention that it comes from."""
    name = rng.choice([name for name in arguments if name in task.workplace.conventions])
    codes = set(task.workplace.conventions[name].codes.values()) - {arguments[name]}
    return {name: rng.choice(sorted(codes))}


def _calls(messages: list[Message]) -> list[ExpectedCall]:
    raw = [call for message in messages for call in message.get("tool_calls", ())]
    return [call for call in map(parse_call, raw) if call is not None]


def _replay(task: WorkplaceTask, made: list[ExpectedCall]) -> WorkplaceSimulator:
    simulation = WorkplaceSimulator(task)
    for call in made:
        simulation.call(call.tool, call.arguments)
    return simulation
