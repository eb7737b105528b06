"""One episode as it is written: every call is answered, and every error that is answered is noted as the truth."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from looper.benchmarks.synthesis.planted_defects.texts import Flaw
from looper.benchmarks.synthesis.planted_defects.truth import DefectKind, PlantedText, Span
from looper.gym.simulator import TIMEOUT, WorkplaceSimulator
from looper.gym.workplace import ExpectedCall, Tool, Workplace, WorkplaceTask
from looper.platform.domain.trajectory import Outcome, Trajectory
from looper.platform.trajectories.episode import EpisodeBuilder
from looper.platform.trajectories.episode import RecordedCall as Made

HISTORY, STATUS, NOTE = "history", "status", "note"
"""Tools beside those of the gym, which no convention asks for: an agent may use them, and may leave it."""

ANSWERS = {HISTORY: "2 earlier, all settled", STATUS: "nothing pending", NOTE: "noted"}


def furnish(place: Workplace) -> Workplace:
    """The work place with the tools that may be used and need not be."""
    record = next(iter(place.procedure[-1].arguments))
    tools = (Tool(HISTORY, (record,)), Tool(STATUS, (record,)), Tool(NOTE, (record, "text")))
    return replace(place, tools=(*place.tools, *tools))


@dataclass(frozen=True)
class Written:
    """A finished episode and the truth about it."""

    trajectory: Trajectory
    spans: tuple[Span, ...] = ()
    texts: tuple[PlantedText, ...] = ()


class Script:
    """An episode under construction, in a work place that is furnished.

    Tools of the gym answer as its simulation does, unless an answer is given: then the simulation never hears of the
    call. All others answer from ``answers``, or the same each time.
    """

    def __init__(
        self, task: WorkplaceTask, request: str | None = None, *, answers: Mapping[str, str] | None = None
    ) -> None:
        self.task = task
        self.read, self.write = (step.call(task.facts) for step in task.workplace.procedure)
        self.simulation = WorkplaceSimulator(task)
        self._answers = ANSWERS | dict(answers or {})
        self._episode = EpisodeBuilder()
        self._length = 0
        self._calls = 0
        self._spans: list[tuple[DefectKind, int, int]] = []
        self._texts: list[tuple[DefectKind, tuple[str, ...], bool]] = []
        self._episode.say("system", task.workplace.system)
        self._length += 1
        self.hear(task.request if request is None else request)

    def hear(self, text: str) -> None:
        """Let the user say ``text``."""
        self._episode.say("user", text)
        self._length += 1

    def say(self, text: str) -> None:
        """Let the agent say ``text``."""
        self._episode.say("agent", text)
        self._length += 1

    def make(
        self,
        call: ExpectedCall,
        answer: str | None = None,
        kind: DefectKind | None = None,
        *,
        written: str | None = None,
        remark: str = "",
    ) -> int:
        """Let the agent make ``call`` and be answered; returns the place of its step.

        ``answer`` is what the tool says, an error of ``kind`` or none; without it the work place answers. ``written``
        are the arguments as the agent spells them.
        """
        place = self._length
        arguments = json.dumps(dict(call.arguments)) if written is None else written
        self._episode.say("agent", remark, [Made(call.tool, arguments, f"call_{self._calls}")])
        if answer is None:
            answer = self._answer(call)
            kind = self._kind(answer)
        self._episode.observe(f"call_{self._calls}", answer)
        self._calls += 1
        self._length += 2
        if kind is not None:
            self._spans.append((kind, place + 1, place + 1))
        return place

    def extra(self, tool: str, text: str = "settled as asked") -> ExpectedCall:
        """A call of one of the tools that may be left, about the record that the task is about."""
        record = next(iter(self.write.arguments.items()))
        return ExpectedCall(tool, dict([record, ("text", text)] if tool == NOTE else [record]))

    def remedy(self) -> ExpectedCall:
        """What the house does on its own error."""
        return self.task.workplace.obstacles[0].remedy.call(self.task.facts)

    def work(self, remarks: Sequence[str] = ("",)) -> None:
        """Let the agent do what is left to do, as the house asks for it."""
        number = 0
        while (call := self.simulation.expected()) is not None:
            self.make(call, remark=remarks[number % len(remarks)])
            number += 1

    def mark(self, kind: DefectKind, first: int, last: int) -> None:
        """Note a defect from the agent's step ``first`` to the answer of its step ``last``."""
        self._spans.append((kind, first, last + 1))

    def plant(self, kind: DefectKind, parts: tuple[str, ...], *, harmless: bool = False) -> None:
        """Note a text that is in the episode."""
        self._texts.append((kind, parts, harmless))

    def end(self, word: str | None = "done", *, success: bool | None = None) -> Written:
        """Close the episode with the agent's last word, or cut it off (None).

        It is a success if it came to an end in the world that the task wants, unless ``success`` says otherwise.
        """
        if word is not None:
            self.say(word)
        if success is None:
            success = word is not None and self.simulation.solved
        trajectory = self._episode.trajectory(
            task_id=self.task.id,
            format="openai_chat",
            outcome=Outcome(success=success, reward=float(success)),
            tools=self.task.tools(),
        )
        return Written(
            trajectory,
            tuple(Span(kind, trajectory.id, first, last) for kind, first, last in self._spans),
            tuple(PlantedText(kind, trajectory.id, parts, harmless) for kind, parts, harmless in self._texts),
        )

    def _answer(self, call: ExpectedCall) -> str:
        known = self._answers.get(call.tool)
        return self.simulation.call(call.tool, call.arguments) if known is None else known

    def _kind(self, answer: str) -> DefectKind | None:
        if answer in {obstacle.code for obstacle in self.task.workplace.obstacles}:
            return DefectKind.INFORMATIVE
        if answer == TIMEOUT:
            return DefectKind.TRANSIENT
        return DefectKind.CAUSAL if answer.startswith("E_") else None


def flawed(call: ExpectedCall, flaw: Flaw) -> tuple[ExpectedCall, str]:
    """The call with a flaw, and its arguments as the agent spells them."""
    tool, arguments = call.tool, dict(call.arguments)
    last = list(arguments)[-1]
    if flaw is Flaw.MISSING:
        del arguments[last]
    elif flaw is Flaw.EXTRA:
        arguments["urgent"] = "yes"
    elif flaw is Flaw.WRONG:
        arguments[last] = "other"
    elif flaw is Flaw.MISNAMED:
        tool = f"{tool}_record"
    written = json.dumps(arguments)
    return ExpectedCall(tool, arguments), written[:-1] if flaw is Flaw.MALFORMED else written


def spelled(call: ExpectedCall, number: int) -> str:
    """The same arguments in another spelling: with or without spaces, and in either order."""
    items = list(call.arguments.items())
    separators = (",", ":") if number % 2 else (", ", ": ")
    return json.dumps(dict(items[::-1] if number % 4 > 1 else items), separators=separators)
