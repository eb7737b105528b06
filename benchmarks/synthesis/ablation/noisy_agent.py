"""What a careless agent leaves behind: several episodes of each task, with every trap at the rate that real data has.

Each rate is that of the source that has most of the trap, among the sources of real trajectories with at least eight
successes (tau-bench, ten tenants of tau2), counted by the pipeline's own verdicts. They were written down before
anything was trained, and stay as they are.
"""

from dataclasses import dataclass
from enum import Enum, auto
from random import Random

import orjson

from looper.benchmarks.synthesis.planted_defects import texts
from looper.benchmarks.synthesis.planted_defects.script import Script, flawed
from looper.benchmarks.synthesis.planted_defects.texts import Flaw
from looper.benchmarks.synthesis.planted_defects.truth import DefectKind
from looper.gym.simulator import TIMEOUT
from looper.gym.workplace import ExpectedCall, Workplace, WorkplaceTask
from looper.platform.domain.trajectory import Outcome, Trajectory

TRIALS = 4
"""Episodes of a task: as tau-bench has them."""
OFTEN, OFTEN_TRIALS = 0.1, 16
"""Share of tasks that come again and again. Three of five SWE-agent demonstrations are of one task."""
FAILED = 0.58
"""tau-bench, airline: 116 of 200 episodes."""
SAID_ONLY = 0.39
"""Share of episodes that are judged by what was said, where who is wrong and says "done" passes. Tenants: 79 of 204."""
SLIPS = 0.5
"""Share of successes with a wrong call that was put right. Two of the tenants: 7 of 14 each; all sources: 0.15."""
REPEATS = 0.375
"""Share of successes with the same call several times in a row. One tenant: 3 of 8, two of these after an error; one
retail agent: 8 of 35, all without a reason; all sources: 0.05."""
LENGTHS = (3, 6)
"""Calls of such a row. The sources have 2 to 4; agents trained on successes alone were seen in longer ones."""
BROKEN = 0.2
"""Share of episodes that meet a tool's own bug. One tenant: 9 of 62 calls, with three calls an episode."""
TIMED_OUT = 0.05
"""The sources have none: a guess."""
LUCKY = 0.09
"""Share of successes that left out a read that the house asks for. Tenants: 19 of 204 have no call at all."""


class Slip(Enum):
    """A call that was wrong, and then put right."""

    PLAIN = auto()
    """The record without the house's way to write it."""
    MISSING = auto()
    """An argument less."""
    MISNAMED = auto()
    """A tool that is not there."""
    CODE = auto()
    """Another code of the house's: accepted, and written once more."""


class Failure(Enum):
    WRONG_CODE = auto()
    """And the agent says that it is done."""
    STUCK = auto()
    """The same call until the turns run out."""
    GIVEN_UP = auto()


@dataclass(frozen=True)
class _Fate:
    """What will go wrong in an episode."""

    failure: Failure | None
    slip: Slip | None
    said_only: bool
    lucky: bool
    broken: bool
    timed_out: bool


def trajectories(place: Workplace, task_ids: list[str], seed: int) -> list[Trajectory]:
    """All episodes of ``task_ids``, task by task. The same seed gives the same."""
    rng = Random(f"{seed} {place.instance} noisy")
    return [
        _episode(place.task(id, seed), rng)
        for id in task_ids
        for _ in range(OFTEN_TRIALS if rng.random() < OFTEN else TRIALS)
    ]


def _episode(task: WorkplaceTask, rng: Random) -> Trajectory:
    fails = rng.random() < FAILED
    fate = _Fate(
        failure=rng.choice([Failure.WRONG_CODE, Failure.WRONG_CODE, Failure.STUCK, Failure.GIVEN_UP])
        if fails
        else None,
        slip=rng.choice(list(Slip)) if rng.random() < SLIPS else None,
        said_only=rng.random() < SAID_ONLY,
        lucky=rng.random() < LUCKY,
        broken=rng.random() < BROKEN,
        timed_out=rng.random() < TIMED_OUT,
    )
    return _Careless(task, fate, rng).work()


class _Careless:
    """An agent at work that knows the house's ways, and is careless in the way that its fate says."""

    def __init__(self, task: WorkplaceTask, fate: _Fate, rng: Random) -> None:
        self._script = Script(task)
        self._task, self._fate, self._rng = task, fate, rng
        self._stuck = self._where_it_repeats()

    def work(self) -> Trajectory:
        self._read()
        if self._fate.failure is Failure.STUCK:
            self._make("stuck", self._script.write)
            return self._ended(None, success=False)
        if self._fate.slip is Slip.MISSING:
            call, written = flawed(self._script.write, Flaw.MISSING)
            self._make("slip", call, written=written)
        elif self._fate.slip is Slip.MISNAMED:
            self._make("slip", flawed(self._script.write, Flaw.MISNAMED)[0])
        if self._fate.failure is Failure.GIVEN_UP:
            self._make("write", self._script.write, "Internal server error")
            return self._ended("It cannot be done.", success=False)
        self._write()
        return self._ended("done", success=self._fate.failure is None or self._fate.said_only)

    def _read(self) -> None:
        read = self._script.read
        if self._fate.slip is Slip.PLAIN:
            record, value = next(iter(read.arguments.items()))
            self._make("slip", ExpectedCall(read.tool, {**read.arguments, record: value.rpartition("-")[2]}))
        if self._fate.lucky:
            return
        if self._fate.broken:
            bug = self._rng.choice(texts.ENVIRONMENT).format(tool=read.tool, parameter=next(iter(read.arguments)))
            self._script.make(read, bug, DefectKind.ENVIRONMENT)
        if self._fate.timed_out:
            self._script.make(read, TIMEOUT, DefectKind.TRANSIENT)
        self._make("read", read)

    def _write(self) -> None:
        """What blocks the write is met by whatever is written first."""
        wrong = self._with_another_code()
        wrongly = self._fate.slip is Slip.CODE or self._fate.failure is Failure.WRONG_CODE
        first = wrong if wrongly else self._script.write
        self._make("write", first)
        if self._task.obstacles:
            self._script.make(self._script.remedy())
            self._script.make(first)
        if self._fate.failure is not Failure.WRONG_CODE:
            self._script.work()

    def _make(self, moment: str, call: ExpectedCall, answer: str | None = None, *, written: str | None = None) -> None:
        times = self._rng.randint(*LENGTHS) if moment == self._stuck else 1
        for _ in range(times):
            self._script.make(call, answer, written=written)

    def _where_it_repeats(self) -> str | None:
        """At an error, if the episode meets one."""
        if self._fate.failure is Failure.STUCK:
            return "stuck"
        if self._rng.random() >= REPEATS:
            return None
        slips = ["slip"] if self._fate.slip not in (None, Slip.CODE) else []
        errors = [*slips, *(["write"] if self._task.obstacles else [])]
        return self._rng.choice(errors or ["write", *([] if self._fate.lucky else ["read"])])

    def _with_another_code(self) -> ExpectedCall:
        right, conventions = self._script.write, self._task.workplace.conventions
        name = self._rng.choice([name for name in right.arguments if name in conventions])
        others = sorted({*conventions[name].codes.values()} - {right.arguments[name]})
        return ExpectedCall(right.tool, {**right.arguments, name: self._rng.choice(others)})

    def _ended(self, word: str | None, *, success: bool) -> Trajectory:
        """As tau2 writes it: with what its reward rests on."""
        played = self._script.end(word, success=success).trajectory
        basis = ["COMMUNICATE"] if self._fate.said_only else ["DB"]
        outcome = Outcome(success=success, reward=float(success), detail=orjson.dumps({"reward_basis": basis}).decode())
        return Trajectory.of(
            task_id=played.task_id, format=played.format, steps=played.steps, outcome=outcome, tools=played.tools
        )
