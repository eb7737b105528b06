"""The work place at work on one task: answers calls as its tools would, and knows the next right call."""

from collections.abc import Mapping

from looper.gym.workplace import ExpectedCall, Obstacle, WorkplaceTask, World

TIMEOUT = "E_TIMEOUT"


class WorkplaceSimulator:
    """The state of one task while an agent works on it.

    Errors that any agent can cause: ``E_TOOL`` (no such tool), ``E_ARGS`` (missing, extra or non-text arguments),
    ``E_UNKNOWN`` (no such record), ``E_ORDER`` (an earlier step is missing), ``E_REFUSED`` (a read or a remedy with a
    wrong code), ``E_STATE`` (a remedy with nothing to cure). A *write* with a wrong code is accepted, as most systems
    would: only the end state shows it.
    """

    def __init__(self, task: WorkplaceTask) -> None:
        self.world: World = {}
        self._task = task
        self._steps = [(step, step.call(task.facts)) for step in task.workplace.procedure]
        self._records = {item for _, call in self._steps for item in call.arguments.items()}
        self._read: set[int] = set()
        self._ahead = list(task.obstacles)
        self._met: list[Obstacle] = []
        self._calls = 0

    @property
    def solved(self) -> bool:
        return self.world == self._task.goal

    def expected(self) -> ExpectedCall | None:
        """Return the call that the house conventions ask for now, or None when nothing is left to do."""
        if self._met:
            return self._met[0].remedy.call(self._task.facts)
        last_write = max((i for i, (_, call) in enumerate(self._steps) if call.tool in self.world), default=-1)
        for i, (step, call) in enumerate(self._steps):
            skipped = i < last_write  # a read comes too late once a later write is done
            missing = i not in self._read and not skipped if step.reads else self.world.get(call.tool) != call.arguments
            if missing:
                return call
        return None

    def call(self, tool: str, arguments: Mapping[str, object]) -> str:
        """Let the agent call ``tool``; return the observation: an answer, or an error code."""
        self._calls += 1
        parameters = next((known.parameters for known in self._task.workplace.tools if known.name == tool), None)
        if parameters is None:
            return "E_TOOL"
        texts = {name: value for name, value in arguments.items() if isinstance(value, str)}
        if set(texts) != set(parameters) or len(texts) != len(arguments):
            return "E_ARGS"
        if self._task.outage == self._calls - 1:
            return TIMEOUT
        if any(obstacle.remedy.tool == tool for obstacle in self._task.workplace.obstacles):
            return self._cure(ExpectedCall(tool, texts))
        if (parameters[0], texts[parameters[0]]) not in self._records:
            return "E_UNKNOWN"
        return self._work(ExpectedCall(tool, texts))

    def _cure(self, call: ExpectedCall) -> str:
        for obstacle in self._met:
            if obstacle.remedy.tool == call.tool:
                if obstacle.remedy.call(self._task.facts) != call:
                    return "E_REFUSED"
                self._met.remove(obstacle)
                return obstacle.remedy.answer.format_map(self._task.facts)
        return "E_STATE"

    def _work(self, made: ExpectedCall) -> str:
        # A tool that the procedure does not call stands in the place of its last step: done all the same, and wrong.
        number = next((i for i, (_, call) in enumerate(self._steps) if call.tool == made.tool), len(self._steps) - 1)
        step, call = self._steps[number]
        if any(not step.reads and call.tool not in self.world for step, call in self._steps[:number]):
            return "E_ORDER"
        for obstacle in [*self._met, *self._ahead]:
            if obstacle.blocks == number:
                if obstacle in self._ahead:
                    self._ahead.remove(obstacle)
                    self._met.append(obstacle)
                return obstacle.code
        if step.reads and made != call:
            return "E_REFUSED"
        if step.reads:
            self._read.add(number)
        else:
            self.world[made.tool] = dict(made.arguments)
        return step.answer.format_map(self._task.facts)
