"""Simulate a workplace on one task: answer tool calls, and know the next right call.

``run_episode``, the policies and the benchmarks create one ``WorkplaceSimulator`` per episode.
"""

from collections.abc import Mapping

from looper.gym.workplace import Obstacle, Question, WorkplaceCall, WorkplaceTask, WorldState

TIMEOUT_ERROR = "E_TIMEOUT"
"""Answer of a call that times out once; the same call works the next time."""

DISTRACTOR_ANSWER = "ok"
"""Answer of a tool that no task needs."""


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
        self._asked: set[Question] = set()
        self._calls = 0

    @property
    def is_solved(self) -> bool:
        """Whether the state is the one that the task asks for."""
        return self.world == self._task.goal

    def expected_call(self) -> WorkplaceCall | None:
        """Return the call that the house conventions ask for now, or None if a question is due or the task is done."""
        if self._active_obstacles:
            return self._active_obstacles[0].remedy.to_call(self._task.facts)
        number = self._find_next_step()
        return None if number is None or self.expected_question() else self._steps[number][1]

    def expected_question(self) -> Question | None:
        """Return the question that the house conventions ask for now, or None if none is due."""
        number = None if self._active_obstacles else self._find_next_step()
        due = (question for question in self._task.workplace.questions if question.before == number)
        return next((question for question in due if question not in self._asked), None)

    def ask_user(self, text: str) -> Question | None:
        """Let the user hear a text of the agent.

        Args:
            text: The text.

        Returns:
            The question that the user answers: the first one in the text that was not answered before. None if there
            is none, so that the text ends the episode.
        """
        heard = (question for question in self._task.workplace.questions if question.is_asked_in(text))
        question = next((question for question in heard if question not in self._asked), None)
        if question is not None:
            self._asked.add(question)
        return question

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
        if tool in self._task.workplace.distractors:
            self.world[tool] = texts
            return DISTRACTOR_ANSWER
        return self._execute_step(WorkplaceCall(tool, texts))

    def _find_next_step(self) -> int | None:
        """Return the number of the first step that is missing, or None if all is done."""
        last_write = max((i for i, (_, call) in enumerate(self._steps) if call.tool in self.world), default=-1)
        for i, (step, call) in enumerate(self._steps):
            is_too_late = i < last_write  # a read has no use after a later write
            missing = (
                i not in self._read and not is_too_late if step.reads else self.world.get(call.tool) != call.arguments
            )
            if missing:
                return i
        return None

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
