"""Write one episode step by step, with the ground truth about its errors.

The modules that plant defects use ``EpisodeScript``, and so does ``ablation/noisy_agent.py``. Every call is answered,
and every error in an answer is recorded as a planted defect.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from looper.benchmarks.synthesis.planted_defects.ground_truth import DefectKind, PlantedSpan, PlantedText
from looper.benchmarks.synthesis.planted_defects.texts import Flaw
from looper.gym.simulator import TIMEOUT_ERROR, WorkplaceSimulator
from looper.gym.workplace import Tool, Workplace, WorkplaceCall, WorkplaceTask
from looper.platform.domain.trajectory import Outcome, Trajectory
from looper.platform.trajectories.episode import EpisodeBuilder, RecordedCall

HISTORY, STATUS, NOTE = "history", "status", "note"
"""Optional tools. The gym does not have them and no convention requires them, so an agent may use them or not."""

ANSWERS = {HISTORY: "2 earlier, all settled", STATUS: "nothing pending", NOTE: "noted"}
"""Default answers of the optional tools."""


def add_optional_tools(workplace: Workplace) -> Workplace:
    """Add the optional tools to a workplace.

    Args:
        workplace: A workplace of the gym.

    Returns:
        The same workplace with more tools.
    """
    record = next(iter(workplace.procedure[-1].arguments))
    tools = (Tool(HISTORY, (record,)), Tool(STATUS, (record,)), Tool(NOTE, (record, "text")))
    return replace(workplace, tools=(*workplace.tools, *tools))


@dataclass(frozen=True)
class FinishedEpisode:
    """A finished episode with the ground truth about it."""

    trajectory: Trajectory
    """The episode."""
    spans: tuple[PlantedSpan, ...] = ()
    """Defects in its steps."""
    texts: tuple[PlantedText, ...] = ()
    """Texts that were planted in it."""


class EpisodeScript:
    """An episode while it is written, in a workplace with the optional tools.

    A tool of the gym answers as in the simulation, unless an answer is given. Then the simulation does not get the
    call. An optional tool gives its answer from ``answers``, or its default answer.

    Attributes:
        task: The task of the episode.
        read_call: The first call of the procedure, which reads.
        write_call: The second call of the procedure, which writes.
        simulation: State of the workplace.
    """

    def __init__(
        self, task: WorkplaceTask, request: str | None = None, *, answers: Mapping[str, str] | None = None
    ) -> None:
        """Start the episode with the system message and the user's request.

        Args:
            task: The task.
            request: The user's message, by default the request of the task.
            answers: Answers of optional tools, by tool.
        """
        self.task = task
        self.read_call, self.write_call = (step.to_call(task.facts) for step in task.workplace.procedure)
        self.simulation = WorkplaceSimulator(task)
        self._answers = ANSWERS | dict(answers or {})
        self._episode = EpisodeBuilder()
        self._step_count = 0
        self._call_count = 0
        self._spans: list[tuple[DefectKind, int, int]] = []
        self._texts: list[tuple[DefectKind, tuple[str, ...], bool]] = []
        self._episode.add_message("system", task.workplace.system)
        self._step_count += 1
        self.add_user_message(task.request if request is None else request)

    def add_user_message(self, text: str) -> None:
        """Add the message ``text`` of the user."""
        self._episode.add_message("user", text)
        self._step_count += 1

    def add_agent_message(self, text: str) -> None:
        """Add the message ``text`` of the agent, without a call."""
        self._episode.add_message("agent", text)
        self._step_count += 1

    def call_tool(
        self,
        call: WorkplaceCall,
        answer: str | None = None,
        kind: DefectKind | None = None,
        *,
        raw_arguments: str | None = None,
        remark: str = "",
    ) -> int:
        """Add a call of the agent and the tool's answer.

        Args:
            call: The call.
            answer: The tool's answer. By default the workplace answers.
            kind: Class of the error that ``answer`` is, or None.
            raw_arguments: The arguments as the agent writes them. By default they are well-formed JSON.
            remark: Text of the agent beside the call.

        Returns:
            Index of the agent's step. The answer is the next step.
        """
        step = self._step_count
        arguments = json.dumps(dict(call.arguments)) if raw_arguments is None else raw_arguments
        self._episode.add_message("agent", remark, [RecordedCall(call.tool, arguments, f"call_{self._call_count}")])
        if answer is None:
            answer = self._answer(call)
            kind = self._classify_answer(answer)
        self._episode.add_tool_result(f"call_{self._call_count}", answer)
        self._call_count += 1
        self._step_count += 2
        if kind is not None:
            self._spans.append((kind, step + 1, step + 1))
        return step

    def optional_call(self, tool: str, text: str = "settled as asked") -> WorkplaceCall:
        """Return a call of an optional tool about the record of the task.

        Args:
            tool: Name of the tool.
            text: Text of the note, if the tool is ``NOTE``.

        Returns:
            The call.
        """
        record = next(iter(self.write_call.arguments.items()))
        return WorkplaceCall(tool, dict([record, ("text", text)] if tool == NOTE else [record]))

    def remedy_call(self) -> WorkplaceCall:
        """Return the call that removes the workplace's own obstacle."""
        return self.task.workplace.obstacles[0].remedy.to_call(self.task.facts)

    def finish_task(self, remarks: Sequence[str] = ("",)) -> None:
        """Make all remaining calls that the workplace's rules require.

        Args:
            remarks: Texts of the agent beside the calls, used in turn.
        """
        number = 0
        while (call := self.simulation.expected_call()) is not None:
            self.call_tool(call, remark=remarks[number % len(remarks)])
            number += 1

    def mark_defect(self, kind: DefectKind, first: int, last: int) -> None:
        """Record a defect in several steps.

        Args:
            kind: Class of the defect.
            first: Index of the agent's first step.
            last: Index of the agent's last step. Its answer belongs to the defect too.
        """
        self._spans.append((kind, first, last + 1))

    def mark_text(self, kind: DefectKind, parts: tuple[str, ...], *, harmless: bool = False) -> None:
        """Record a text that is in the episode.

        Args:
            kind: Class of the defect.
            parts: Strings that must be removed.
            harmless: Whether the text must stay instead.
        """
        self._texts.append((kind, parts, harmless))

    def finish(self, last_message: str | None = "done", *, success: bool | None = None) -> FinishedEpisode:
        """Finish the episode.

        Args:
            last_message: The agent's last message. With None, the episode is cut off.
            success: Label of the episode. By default it is a success if it has a last message and the workplace is in
                the state that the task requires.

        Returns:
            The episode with the ground truth about it.
        """
        if last_message is not None:
            self.add_agent_message(last_message)
        if success is None:
            success = last_message is not None and self.simulation.is_solved
        trajectory = self._episode.build(
            task_id=self.task.id,
            format="openai_chat",
            outcome=Outcome(success=success, reward=float(success)),
            tools=self.task.tools(),
        )
        return FinishedEpisode(
            trajectory,
            tuple(PlantedSpan(kind, trajectory.id, first, last) for kind, first, last in self._spans),
            tuple(PlantedText(kind, trajectory.id, parts, harmless) for kind, parts, harmless in self._texts),
        )

    def _answer(self, call: WorkplaceCall) -> str:
        answer = self._answers.get(call.tool)
        return self.simulation.call_tool(call.tool, call.arguments) if answer is None else answer

    def _classify_answer(self, answer: str) -> DefectKind | None:
        if answer in {obstacle.code for obstacle in self.task.workplace.obstacles}:
            return DefectKind.INFORMATIVE
        if answer == TIMEOUT_ERROR:
            return DefectKind.TRANSIENT
        return DefectKind.CAUSAL if answer.startswith("E_") else None


def apply_flaw(call: WorkplaceCall, flaw: Flaw) -> tuple[WorkplaceCall, str]:
    """Make a call wrong.

    Args:
        call: A correct call.
        flaw: What becomes wrong.

    Returns:
        The wrong call, and its arguments as the agent writes them.
    """
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
    raw_arguments = json.dumps(arguments)
    return WorkplaceCall(tool, arguments), raw_arguments[:-1] if flaw is Flaw.MALFORMED else raw_arguments


def format_arguments(call: WorkplaceCall, number: int) -> str:
    """Write the arguments of a call as JSON, with or without spaces and in either order.

    Args:
        call: The call.
        number: Selects the format.

    Returns:
        The arguments as JSON.
    """
    items = list(call.arguments.items())
    separators = (",", ":") if number % 2 else (", ", ": ")
    return json.dumps(dict(items[::-1] if number % 4 > 1 else items), separators=separators)
