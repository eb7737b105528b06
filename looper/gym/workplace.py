"""A workplace as data: its tools, its house conventions, and the tasks that it draws.

Everything that an agent must know to work in a workplace is in one frozen value. A new workplace is a new value; new or
changed conventions are a ``dataclasses.replace`` of an old one. Templates (``"HD-{order}"``) are filled from a task's
facts. ``workplaces`` defines the four workplaces; ``sessions`` and ``streams`` derive changed ones from them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

WorldState = dict[str, dict[str, str]]
"""What the agent's calls wrote: each tool's name with the arguments of its last accepted call."""


@dataclass(frozen=True)
class Tool:
    """A tool of a workplace."""

    name: str
    """Name of the tool."""
    parameters: tuple[str, ...]
    """Parameters, all of them required strings. The first one names the record that the tool works on."""

    def to_openai(self) -> dict[str, Any]:
        """Return the tool in the format of OpenAI's API."""
        properties = {parameter: {"type": "string"} for parameter in self.parameters}
        schema = {"type": "object", "properties": properties, "required": list(self.parameters)}
        return {"type": "function", "function": {"name": self.name, "parameters": schema}}


@dataclass(frozen=True)
class WorkplaceCall:
    """One tool call of an agent."""

    tool: str
    """Name of the tool."""
    arguments: Mapping[str, str]
    """Arguments of the call, by parameter."""


@dataclass(frozen=True)
class Convention:
    """A house rule: the word that a request uses for a fact decides which code to use."""

    fact: str
    """Name of the fact, for example ``goods``."""
    codes: Mapping[str, str]
    """The code for each word of the fact."""


@dataclass(frozen=True)
class WorkplaceStep:
    """One call of a procedure, as templates."""

    tool: str
    """Template of the tool's name."""
    arguments: Mapping[str, str]
    """Templates of the arguments, by parameter."""
    answer: str
    """Template of the tool's answer: its own word for "done", or a fact that only the tool knows."""
    reads: bool = False
    """Whether the step only reads, and so changes nothing in the world."""

    def to_call(self, facts: Mapping[str, str]) -> WorkplaceCall:
        """Fill the templates.

        Args:
            facts: Value of each fact of a task.

        Returns:
            The call that a task with these facts asks for.
        """
        arguments = {name: template.format_map(facts) for name, template in self.arguments.items()}
        return WorkplaceCall(self.tool.format_map(facts), arguments)


@dataclass(frozen=True)
class Obstacle:
    """An error that blocks one step of the procedure until its remedy has been called."""

    code: str
    """The error code that the blocked step answers."""
    blocks: int
    """Number of the blocked step in the procedure, from 0."""
    remedy: WorkplaceStep
    """The call that removes the obstacle."""
    probability: float = 0.25
    """Probability that a task has this obstacle."""


@dataclass(frozen=True)
class Workplace:
    """The workplace of one instance: tools, rules and the space of its tasks."""

    instance: str
    """The instance that works here, as ``tenant/instance``."""
    system: str
    """Template of the system message."""
    tools: tuple[Tool, ...]
    """The tools that the agent is offered."""
    request: str
    """Template of the user's request."""
    values: Mapping[str, Sequence[object]]
    """Possible values of each fact that no convention determines."""
    conventions: Mapping[str, Convention]
    """Conventions by name. The code that a task's word stands for becomes a fact under the convention's name."""
    procedure: tuple[WorkplaceStep, ...]
    """The steps of a task, in order."""
    obstacles: tuple[Obstacle, ...]
    """The obstacles that a task can have."""
    since: str = ""
    """Month in which these rules began, if a workplace changes its rules. It is part of the task ids, so that two
    sessions of one workplace never share an id."""

    def task_ids(self, count: int) -> list[str]:
        """Return the ids of the first tasks.

        Args:
            count: Number of ids.

        Returns:
            Ids such as ``dispatch-000`` or ``dispatch-may-000``.
        """
        name = "-".join(filter(None, (self.instance.partition("/")[2], self.since)))
        return [f"{name}-{number:03d}" for number in range(count)]

    def task(self, task_id: str, seed: int) -> "WorkplaceTask":
        """Draw a task. The same id and seed always give the same task.

        Args:
            task_id: Id of the task; any text is allowed.
            seed: Seed of the draw.

        Returns:
            The task.
        """
        rng = Random(f"{seed} {self.instance} {task_id}")
        facts = {name: str(rng.choice(values)) for name, values in self.values.items()}
        for name, convention in self.conventions.items():
            word = rng.choice(list(convention.codes))
            facts |= {convention.fact: word, name: convention.codes[word]}
        obstacles = tuple(obstacle for obstacle in self.obstacles if rng.random() < obstacle.probability)
        return WorkplaceTask(task_id, self, facts, obstacles)


@dataclass(frozen=True)
class WorkplaceTask:
    """One task, with everything that will happen while an agent works on it."""

    id: str
    """Id of the task, which consolidation uses to split training tasks from held-out tasks."""
    workplace: Workplace
    """The workplace that the task belongs to."""
    facts: Mapping[str, str]
    """Value of each fact."""
    obstacles: tuple[Obstacle, ...]
    """The obstacles that the agent will meet."""
    outage: int | None = None
    """Number of the call, from 0, that times out once without effect; None for no outage."""

    @property
    def request(self) -> str:
        """The user's request."""
        return self.workplace.request.format_map(self.facts)

    @property
    def goal(self) -> WorldState:
        """The state in which a correct episode ends."""
        calls = [step.to_call(self.facts) for step in self.workplace.procedure if not step.reads]
        return {call.tool: dict(call.arguments) for call in calls}

    def messages(self) -> list[dict[str, Any]]:
        """Return the messages with which an episode starts."""
        system = self.workplace.system.format_map(self.facts)
        return [{"role": "system", "content": system}, {"role": "user", "content": self.request}]

    def tools(self) -> list[dict[str, Any]]:
        """Return the tools of the workplace in the format of OpenAI's API."""
        return [tool.to_openai() for tool in self.workplace.tools]
