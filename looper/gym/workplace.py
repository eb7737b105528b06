"""A work place as data: its tools, its house conventions, and the tasks that it draws.

Everything an agent must know to work here is in one frozen value. A new work place is a new value; new or changed
conventions are ``dataclasses.replace`` of an old one. Templates (``"HD-{order}"``) are filled from a task's facts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

World = dict[str, dict[str, str]]
"""What the agent's calls wrote: tool name to the arguments of its last accepted call."""


@dataclass(frozen=True)
class Tool:
    """A tool and its parameters, all of them required strings; the first names the record that it works on."""

    name: str
    parameters: tuple[str, ...]

    def openai(self) -> dict[str, Any]:
        properties = {parameter: {"type": "string"} for parameter in self.parameters}
        schema = {"type": "object", "properties": properties, "required": list(self.parameters)}
        return {"type": "function", "function": {"name": self.name, "parameters": schema}}


@dataclass(frozen=True)
class ExpectedCall:
    """One tool call with its arguments, as an agent makes it."""

    tool: str
    arguments: Mapping[str, str]


@dataclass(frozen=True)
class Convention:
    """A house rule: the word that a request uses for ``fact`` decides the code to use."""

    fact: str
    codes: Mapping[str, str]


@dataclass(frozen=True)
class WorkplaceStep:
    """One call of a procedure, as templates. A step that only ``reads`` leaves no trace in the world."""

    tool: str
    arguments: Mapping[str, str]
    answer: str
    """What the tool says: its own word for done, or a fact that only it knows."""
    reads: bool = False

    def call(self, facts: Mapping[str, str]) -> ExpectedCall:
        arguments = {name: template.format_map(facts) for name, template in self.arguments.items()}
        return ExpectedCall(self.tool.format_map(facts), arguments)


@dataclass(frozen=True)
class Obstacle:
    """An error ``code`` that meets step number ``blocks`` of the procedure until its ``remedy`` has been called."""

    code: str
    blocks: int
    remedy: WorkplaceStep
    probability: float = 0.25


@dataclass(frozen=True)
class Workplace:
    """One instance's place of work.

    ``values`` holds what a request may name: a fact's name to its possible values. The words of a convention's fact
    are its codes' keys; its code becomes a fact under the convention's own name.
    """

    instance: str
    system: str
    tools: tuple[Tool, ...]
    request: str
    values: Mapping[str, Sequence[object]]
    conventions: Mapping[str, Convention]
    procedure: tuple[WorkplaceStep, ...]
    obstacles: tuple[Obstacle, ...]
    since: str = ""
    """When these ways came, for a work place that changes them: part of its tasks' ids, so that no two share one."""

    def task_ids(self, count: int) -> list[str]:
        """Return the ids of the first ``count`` tasks."""
        name = "-".join(filter(None, (self.instance.partition("/")[2], self.since)))
        return [f"{name}-{number:03d}" for number in range(count)]

    def task(self, task_id: str, seed: int) -> "WorkplaceTask":
        """Draw the task ``task_id``. The same id and seed give the same task, whatever else was drawn."""
        rng = Random(f"{seed} {self.instance} {task_id}")
        facts = {name: str(rng.choice(values)) for name, values in self.values.items()}
        for name, convention in self.conventions.items():
            word = rng.choice(list(convention.codes))
            facts |= {convention.fact: word, name: convention.codes[word]}
        obstacles = tuple(obstacle for obstacle in self.obstacles if rng.random() < obstacle.probability)
        return WorkplaceTask(task_id, self, facts, obstacles)


@dataclass(frozen=True)
class WorkplaceTask:
    """One thing to do, with everything that will happen while it is done.

    ``outage`` is the number of the call (from 0) that times out once without effect, or None.
    """

    id: str
    workplace: Workplace
    facts: Mapping[str, str]
    obstacles: tuple[Obstacle, ...]
    outage: int | None = None

    @property
    def request(self) -> str:
        return self.workplace.request.format_map(self.facts)

    @property
    def goal(self) -> World:
        """The world that a correct episode ends in."""
        calls = [step.call(self.facts) for step in self.workplace.procedure if not step.reads]
        return {call.tool: dict(call.arguments) for call in calls}

    def messages(self) -> list[dict[str, Any]]:
        """Return the messages that an episode opens with."""
        return [{"role": "system", "content": self.workplace.system}, {"role": "user", "content": self.request}]

    def tools(self) -> list[dict[str, Any]]:
        """Return the OpenAI tool list of the work place."""
        return [tool.openai() for tool in self.workplace.tools]
