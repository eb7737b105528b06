"""Simulate a workplace on one task: answer tool calls, and know the next right call.

``run_episode``, the policies and the benchmarks create one ``WorkplaceSimulator`` per episode.
"""

from collections.abc import Mapping

from looper.gym.workplace import Obstacle, WorkplaceCall, WorkplaceTask, WorldState

TIMEOUT_ERROR = "E_TIMEOUT"
"""Answer of a call that times out once; the same call works the next time."""


class WorkplaceSimulator:
    """The state of one task while an agent works on it.

    Errors that any agent can cause: ``E_TOOL`` (no such tool), ``E_ARGS`` (missing, extra or non-text arguments),
    ``E_UNKNOWN`` (no such record), ``E_ORDER`` (an earlier step is missing), ``E_REFUSED`` (a read or a remedy with a
    wrong code), ``E_STATE`` (a remedy when no obstacle is present). A *write* with a wrong code is accepted, because
    most real systems accept it: only the final state shows it.

    Attributes:
        world: What the agent's calls have written so far.
    """

    def __init__(self, task: WorkplaceTask) -> None:
        """Start the task.

        Args:
            task: The task to simulate.
        """
        self.world: WorldState = {}
        self._task = task
        self._steps = [(step, step.to_call(task.facts)) for step in task.workplace.procedure]
        self._records = {item for _, call in self._steps for item in call.arguments.items()}
        self._read: set[int] = set()
        self._hidden_obstacles = list(task.obstacles)
        self._active_obstacles: list[Obstacle] = []
        self._calls = 0

    @property
    def is_solved(self) -> bool:
        """Whether the state is the one that the task asks for."""
        return self.world == self._task.goal

    def expected_call(self) -> WorkplaceCall | None:
        """Return the call that the house conventions ask for now, or None if the task is done."""
        if self._active_obstacles:
            return self._active_obstacles[0].remedy.to_call(self._task.facts)
        last_write = max((i for i, (_, call) in enumerate(self._steps) if call.tool in self.world), default=-1)
        for i, (step, call) in enumerate(self._steps):
            is_too_late = i < last_write  # a read has no use after a later write
            missing = (
                i not in self._read and not is_too_late if step.reads else self.world.get(call.tool) != call.arguments
            )
            if missing:
                return call
        return None

    def call_tool(self, tool: str, arguments: Mapping[str, object]) -> str:
        """Execute a tool call of the agent.

        Args:
            tool: Name of the tool.
            arguments: The call's arguments; all of them have to be strings.

        Returns:
            The observation: the tool's answer, or an error code.
        """
        self._calls += 1
        parameters = next(
            (candidate.parameters for candidate in self._task.workplace.tools if candidate.name == tool), None
        )
        if parameters is None:
            return "E_TOOL"
        texts = {name: value for name, value in arguments.items() if isinstance(value, str)}
        if set(texts) != set(parameters) or len(texts) != len(arguments):
            return "E_ARGS"
        if self._task.outage == self._calls - 1:
            return TIMEOUT_ERROR
        if any(obstacle.remedy.tool == tool for obstacle in self._task.workplace.obstacles):
            return self._apply_remedy(WorkplaceCall(tool, texts))
        if (parameters[0], texts[parameters[0]]) not in self._records:
            return "E_UNKNOWN"
        return self._execute_step(WorkplaceCall(tool, texts))

    def _apply_remedy(self, call: WorkplaceCall) -> str:
        for obstacle in self._active_obstacles:
            if obstacle.remedy.tool == call.tool:
                if obstacle.remedy.to_call(self._task.facts) != call:
                    return "E_REFUSED"
                self._active_obstacles.remove(obstacle)
                return obstacle.remedy.answer.format_map(self._task.facts)
        return "E_STATE"

    def _execute_step(self, made: WorkplaceCall) -> str:
        # A tool that the procedure does not call replaces its last step: the call is executed, and the state is wrong.
        number = next((i for i, (_, call) in enumerate(self._steps) if call.tool == made.tool), len(self._steps) - 1)
        step, call = self._steps[number]
        if any(not step.reads and call.tool not in self.world for step, call in self._steps[:number]):
            return "E_ORDER"
        for obstacle in [*self._active_obstacles, *self._hidden_obstacles]:
            if obstacle.blocks == number:
                if obstacle in self._hidden_obstacles:
                    self._hidden_obstacles.remove(obstacle)
                    self._active_obstacles.append(obstacle)
                return obstacle.code
        if step.reads and made != call:
            return "E_REFUSED"
        if step.reads:
            self._read.add(number)
        else:
            self.world[made.tool] = dict(made.arguments)
        return step.answer.format_map(self._task.facts)
