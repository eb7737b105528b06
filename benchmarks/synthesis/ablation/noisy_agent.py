"""Play a careless agent: several episodes per task, with each kind of mistake at the rate that real data has.

``bench.py`` makes training data of the trajectories. Each rate is that of the source with the most mistakes of the
kind, among the sources of real trajectories with at least eight successes (tau-bench, ten tenants of tau2). The
verdicts of Looper's own pipeline were counted. The rates were written down before anything was trained, and stay as
they are.
"""

from dataclasses import dataclass
from enum import Enum, auto
from random import Random

import orjson

from looper.benchmarks.synthesis.planted_defects import texts
from looper.benchmarks.synthesis.planted_defects.episode_script import EpisodeScript, apply_flaw
from looper.benchmarks.synthesis.planted_defects.ground_truth import DefectKind
from looper.benchmarks.synthesis.planted_defects.texts import Flaw
from looper.gym.simulator import TIMEOUT_ERROR
from looper.gym.workplace import Workplace, WorkplaceCall, WorkplaceTask
from looper.platform.domain.trajectory import Outcome, Trajectory

TRIALS_PER_TASK = 4
"""Episodes per task, as in tau-bench."""
FREQUENT_TASK_RATE = 0.1
"""Share of tasks that are done very often. Three of five SWE-agent demonstrations are of one task."""
TRIALS_PER_FREQUENT_TASK = 16
"""Episodes of such a task."""
FAILURE_RATE = 0.58
"""Share of episodes that fail. tau-bench, airline: 116 of 200 episodes."""
MESSAGE_REWARD_RATE = 0.39
"""Share of episodes whose reward depends on the agent's messages only, so that a wrong agent that says "done" succeeds.
Tenants: 79 of 204."""
CORRECTED_CALL_RATE = 0.5
"""Share of successes with a wrong call that was corrected. Two of the tenants: 7 of 14 each. All sources: 0.15."""
REPETITION_RATE = 0.375
"""Share of successes with one call several times in a row. One tenant: 3 of 8, two of them after an error. One retail
agent: 8 of 35, all without a reason. All sources: 0.05."""
REPETITION_COUNTS = (3, 6)
"""Smallest and largest number of calls in such a row. The sources have 2 to 4. Agents that were trained on successes
alone made longer rows."""
TOOL_BUG_RATE = 0.2
"""Share of episodes with a bug of a tool. One tenant: 9 of 62 calls, with three calls per episode."""
TIMEOUT_RATE = 0.05
"""Share of episodes with a timeout. This is a guess, because the sources have none."""
SKIPPED_READ_RATE = 0.09
"""Share of successes that left out a read which the rules require. Tenants: 19 of 204 have no call at all."""


class CorrectedCall(Enum):
    """What was wrong with a call that the agent corrected."""

    PLAIN_RECORD = auto()
    """The record was not written in the format of the workplace."""
    MISSING_ARGUMENT = auto()
    """An argument was missing."""
    MISNAMED_TOOL = auto()
    """The tool does not exist."""
    WRONG_CODE = auto()
    """Another code of the workplace. The tool accepts it, and the agent calls it again with the correct one."""


class Failure(Enum):
    """Why an episode fails."""

    WRONG_CODE = auto()
    """The agent writes a wrong code and says that it is done."""
    STUCK = auto()
    """The agent repeats one call until no turns are left."""
    GIVEN_UP = auto()
    """The agent says that the task cannot be done."""


@dataclass(frozen=True)
class _Mistakes:
    """What goes wrong in an episode."""

    failure: Failure | None
    corrected_call: CorrectedCall | None
    is_judged_by_messages: bool
    skips_read: bool
    has_tool_bug: bool
    has_timeout: bool


def play_careless_agent(workplace: Workplace, task_ids: list[str], seed: int) -> list[Trajectory]:
    """Play all episodes of the tasks.

    Args:
        workplace: A workplace of the gym.
        task_ids: Ids of its tasks.
        seed: Seed of the tasks and of the mistakes. The same seed gives the same episodes.

    Returns:
        The episodes, task by task.
    """
    rng = Random(f"{seed} {workplace.instance} noisy")
    return [
        _play_episode(workplace.task(task_id, seed), rng)
        for task_id in task_ids
        for _ in range(TRIALS_PER_FREQUENT_TASK if rng.random() < FREQUENT_TASK_RATE else TRIALS_PER_TASK)
    ]


def _play_episode(task: WorkplaceTask, rng: Random) -> Trajectory:
    fails = rng.random() < FAILURE_RATE
    failures = [Failure.WRONG_CODE, Failure.WRONG_CODE, Failure.STUCK, Failure.GIVEN_UP]
    mistakes = _Mistakes(
        failure=rng.choice(failures) if fails else None,
        corrected_call=rng.choice(list(CorrectedCall)) if rng.random() < CORRECTED_CALL_RATE else None,
        is_judged_by_messages=rng.random() < MESSAGE_REWARD_RATE,
        skips_read=rng.random() < SKIPPED_READ_RATE,
        has_tool_bug=rng.random() < TOOL_BUG_RATE,
        has_timeout=rng.random() < TIMEOUT_RATE,
    )
    return _CarelessAgent(task, mistakes, rng).play()


class _CarelessAgent:
    """An agent that knows the rules of the workplace and makes the given mistakes."""

    def __init__(self, task: WorkplaceTask, mistakes: _Mistakes, rng: Random) -> None:
        self._script = EpisodeScript(task)
        self._task, self._mistakes, self._rng = task, mistakes, rng
        self._repeated_moment = self._draw_repeated_moment()

    def play(self) -> Trajectory:
        self._read_record()
        if self._mistakes.failure is Failure.STUCK:
            self._call_tool("stuck", self._script.write_call)
            return self._finish(None, success=False)
        if self._mistakes.corrected_call is CorrectedCall.MISSING_ARGUMENT:
            call, raw_arguments = apply_flaw(self._script.write_call, Flaw.MISSING)
            self._call_tool("wrong call", call, raw_arguments=raw_arguments)
        elif self._mistakes.corrected_call is CorrectedCall.MISNAMED_TOOL:
            self._call_tool("wrong call", apply_flaw(self._script.write_call, Flaw.MISNAMED)[0])
        if self._mistakes.failure is Failure.GIVEN_UP:
            self._call_tool("write", self._script.write_call, "Internal server error")
            return self._finish("It cannot be done.", success=False)
        self._write_record()
        return self._finish("done", success=self._mistakes.failure is None or self._mistakes.is_judged_by_messages)

    def _read_record(self) -> None:
        read = self._script.read_call
        if self._mistakes.corrected_call is CorrectedCall.PLAIN_RECORD:
            record, value = next(iter(read.arguments.items()))
            plain_read = WorkplaceCall(read.tool, {**read.arguments, record: value.rpartition("-")[2]})
            self._call_tool("wrong call", plain_read)
        if self._mistakes.skips_read:
            return
        if self._mistakes.has_tool_bug:
            bug = self._rng.choice(texts.ENVIRONMENT).format(tool=read.tool, parameter=next(iter(read.arguments)))
            self._script.call_tool(read, bug, DefectKind.ENVIRONMENT)
        if self._mistakes.has_timeout:
            self._script.call_tool(read, TIMEOUT_ERROR, DefectKind.TRANSIENT)
        self._call_tool("read", read)

    def _write_record(self) -> None:
        """Write the record. If the task has an obstacle, the first write meets it."""
        wrong_write = self._draw_wrong_write()
        has_wrong_code = (
            self._mistakes.corrected_call is CorrectedCall.WRONG_CODE or self._mistakes.failure is Failure.WRONG_CODE
        )
        first_write = wrong_write if has_wrong_code else self._script.write_call
        self._call_tool("write", first_write)
        if self._task.obstacles:
            self._script.call_tool(self._script.remedy_call())
            self._script.call_tool(first_write)
        if self._mistakes.failure is not Failure.WRONG_CODE:
            self._script.finish_task()

    def _call_tool(
        self, moment: str, call: WorkplaceCall, answer: str | None = None, *, raw_arguments: str | None = None
    ) -> None:
        """Make a call, or several if the agent repeats the call of this moment."""
        count = self._rng.randint(*REPETITION_COUNTS) if moment == self._repeated_moment else 1
        for _ in range(count):
            self._script.call_tool(call, answer, raw_arguments=raw_arguments)

    def _draw_repeated_moment(self) -> str | None:
        """Choose the call that the agent repeats, or None. It is one that gives an error, if the episode has any."""
        if self._mistakes.failure is Failure.STUCK:
            return "stuck"
        if self._rng.random() >= REPETITION_RATE:
            return None
        has_error = self._mistakes.corrected_call not in (None, CorrectedCall.WRONG_CODE)
        errors = [*(["wrong call"] if has_error else []), *(["write"] if self._task.obstacles else [])]
        return self._rng.choice(errors or ["write", *([] if self._mistakes.skips_read else ["read"])])

    def _draw_wrong_write(self) -> WorkplaceCall:
        """Return the write with another code of the workplace."""
        write, conventions = self._script.write_call, self._task.workplace.conventions
        name = self._rng.choice([name for name in write.arguments if name in conventions])
        other_codes = sorted({*conventions[name].codes.values()} - {write.arguments[name]})
        return WorkplaceCall(write.tool, {**write.arguments, name: self._rng.choice(other_codes)})

    def _finish(self, last_message: str | None, *, success: bool) -> Trajectory:
        """Finish the episode in the format of tau2, which says what the reward depends on."""
        trajectory = self._script.finish(last_message, success=success).trajectory
        basis = ["COMMUNICATE"] if self._mistakes.is_judged_by_messages else ["DB"]
        outcome = Outcome(success=success, reward=float(success), detail=orjson.dumps({"reward_basis": basis}).decode())
        return Trajectory.create(
            task_id=trajectory.task_id,
            format=trajectory.format,
            steps=trajectory.steps,
            outcome=outcome,
            tools=trajectory.tools,
        )
