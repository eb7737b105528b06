"""A workplace as data: its tools, its house conventions, and the tasks that it draws.

Everything that an agent must know to work in a workplace is in one frozen value. A new workplace is a new value; new or
changed conventions are a ``dataclasses.replace`` of an old one. Templates (``"HD-{order}"``) are filled from a task's
facts. ``workplaces`` and ``hard_workplaces`` define four workplaces each; ``sessions`` and ``streams`` derive changed
ones.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

WorldState = dict[str, dict[str, str]]
"""What the agent's calls wrote: each tool's name with the arguments of its last accepted call."""

MIN_TURN_LIMIT = 8
"""Turns that an episode has in any case."""


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
class SpecialCase:
    """An exception to a convention: another fact decides the code."""

    fact: str
    """Name of the deciding fact: that of another convention."""
    word: str
    """The word of this fact to which the special case applies."""
    code: str
    """The code, whatever the convention says."""


@dataclass(frozen=True)
class Convention:
    """A house rule: the word that a fact has in a task decides which code to use.

    The agent finds the word in the request, in the answer of a read, or asks the user for it.
    """

    fact: str
    """Name of the fact, for example ``goods``."""
    codes: Mapping[str, str]
    """The code for each word of the fact."""
    special_cases: tuple[SpecialCase, ...] = ()
    """Exceptions. The first one that applies decides."""

    def code(self, facts: Mapping[str, str]) -> str:
        """Return the code that the convention asks for.

        Args:
            facts: Value of each fact of a task.

        Returns:
            The code.
        """
        applying = (case.code for case in self.special_cases if facts[case.fact] == case.word)
        return next(applying, self.codes[facts[self.fact]])


@dataclass(frozen=True)
class Question:
    """A fact that requests leave out, so that the agent has to ask the user for it."""

    fact: str
    """Name of the fact."""
    before: int
    """Number of the step in the procedure, from 0, before which the agent asks."""

    @property
    def text(self) -> str:
        """The question, as the expert asks it."""
        return f"Which {self.fact}?"

    def is_asked_in(self, text: str) -> bool:
        """Tell whether a text asks for the fact.

        Args:
            text: Text of the agent, in any words.

        Returns:
            Whether it has a question mark and names the fact.
        """
        return "?" in text and self.fact in re.findall(r"\w+", text.lower())


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

    distractors: tuple[str, ...] = ()
    """Names of the tools that no task needs. A call is accepted at any time, and nothing undoes it."""
    questions: tuple[Question, ...] = ()
    """What the agent has to ask the user, in the order of the procedure."""

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
        facts |= {name: convention.code(facts) for name, convention in self.conventions.items()}
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

    @property
    def turn_limit(self) -> int:
        """Number of turns after which an episode has failed.

        The longest episode of an expert has each step and each question once, two turns for each obstacle, one for an
        outage, and the last message. The limit leaves two turns more, and is never below ``MIN_TURN_LIMIT``.
        """
        place = self.workplace
        longest = len(place.procedure) + len(place.questions) + 2 * len(place.obstacles) + 2
        return max(MIN_TURN_LIMIT, longest + 2)

    def messages(self) -> list[dict[str, Any]]:
        """Return the messages with which an episode starts."""
        system = self.workplace.system.format_map(self.facts)
        return [{"role": "system", "content": system}, {"role": "user", "content": self.request}]

    def tools(self) -> list[dict[str, Any]]:
        """Return the tools of the workplace in the format of OpenAI's API."""
        return [tool.to_openai() for tool in self.workplace.tools]
