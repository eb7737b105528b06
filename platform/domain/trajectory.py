"""A trajectory: one episode of an agent, in the canonical form that every reader produces.

Readers in ``looper.platform.trajectories`` make trajectories; the object store keeps them and synthesis reads them.
"""

import hashlib
from typing import Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict

Source = Literal["system", "developer", "user", "agent", "tool"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ToolCall(_Frozen):
    """One tool call."""

    id: str
    """Id of the call. The observation refers to it."""
    name: str
    """Name of the tool."""
    arguments: str
    """JSON text, usually of an object, exactly as in the source."""


class Step(_Frozen):
    """One step of an episode.

    An ``agent`` step may have ``tool_calls``. A ``tool`` step is the observation that answers the call ``call_id``. In
    some sources the *user* calls tools too (tau2's ``requestor``). Such calls and their observations have
    ``requestor="user"``, and the agent is never trained on them.
    """

    source: Source
    """Author of the step."""
    content: str = ""
    """Text of the step."""
    reasoning: str = ""
    """What an agent thought before the text and the calls of the step, where the source keeps it apart."""
    tool_calls: tuple[ToolCall, ...] = ()
    """Tool calls that the step makes."""
    call_id: str | None = None
    """For a ``tool`` step, the id of the call that it answers."""
    requestor: Literal["agent", "user"] = "agent"
    """Who made the tool call."""
    timestamp: str | None = None
    """Time of the step, as the source wrote it."""


class Outcome(_Frozen):
    """How the episode ended, as far as its source says."""

    success: bool | None = None
    """Whether the task was solved. None: the source has no label."""
    reward: float | None = None
    """Reward in the source's own scale. None: the source has no reward."""
    detail: str = "{}"
    """JSON text of the source's own checks (reward basis, action checks, termination reason)."""


class Trajectory(_Frozen):
    """One episode."""

    id: str
    """First 32 hexadecimal digits of the SHA-256 of the content."""
    task_id: str
    """Task that the agent worked on. Several episodes may have the same task."""
    format: str
    """Name of the source format."""
    steps: tuple[Step, ...]
    """The steps, in their order."""
    outcome: Outcome = Outcome()
    """How the episode ended."""
    tools: str | None = None
    """JSON text of the OpenAI tool list that the agent saw, or None if unknown."""

    @classmethod
    def create(
        cls,
        *,
        task_id: str,
        format: str,
        steps: tuple[Step, ...],
        outcome: Outcome = Outcome(),  # noqa: B008 (frozen)
        tools: str | None = None,
    ) -> Self:
        """Create a trajectory and compute its id. The same episode always gets the same id.

        Args:
            task_id: Task that the agent worked on.
            format: Name of the source format.
            steps: The steps, in their order.
            outcome: How the episode ended.
            tools: JSON text of the OpenAI tool list that the agent saw, or None if unknown.

        Returns:
            The trajectory.
        """
        without_id = cls(id="", task_id=task_id, format=format, steps=steps, outcome=outcome, tools=tools)
        content = without_id.model_dump(mode="json")
        for step in content["steps"]:
            if not step["reasoning"]:
                del step["reasoning"]  # so that episodes without it keep the ids that they had before it was known
        digest = hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()
        return without_id.model_copy(update={"id": digest[:32]})
