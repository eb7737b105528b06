"""A trajectory: one episode of an agent, in the canonical form that every reader produces."""

import hashlib
from typing import Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict

Source = Literal["system", "user", "agent", "tool"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ToolCall(_Frozen):
    """A call that was made: ``arguments`` is JSON text, usually of an object, kept as the source wrote it."""

    id: str
    name: str
    arguments: str


class Step(_Frozen):
    """One step of an episode.

    ``agent`` steps may carry ``tool_calls``; a ``tool`` step is the observation that answers the call ``call_id``.
    Some sources let the *user* call tools too (tau2's ``requestor``): such calls, and the observations they got, carry
    ``requestor="user"`` and are never the agent's to learn.
    """

    source: Source
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    call_id: str | None = None
    requestor: Literal["agent", "user"] = "agent"
    timestamp: str | None = None


class Outcome(_Frozen):
    """How the episode ended, as far as its source says. ``success`` is None where the source has no label."""

    success: bool | None = None
    reward: float | None = None
    detail: str = "{}"
    """JSON text of the source's own checks (reward basis, action checks, termination reason)."""


class Trajectory(_Frozen):
    """One episode. ``tools`` is the JSON text of the OpenAI tool list the agent saw, or None if unknown."""

    id: str
    task_id: str
    format: str
    steps: tuple[Step, ...]
    outcome: Outcome = Outcome()
    tools: str | None = None

    @classmethod
    def of(
        cls,
        *,
        task_id: str,
        format: str,
        steps: tuple[Step, ...],
        outcome: Outcome = Outcome(),  # noqa: B008 (frozen)
        tools: str | None = None,
    ) -> Self:
        """Make a trajectory whose id is the SHA-256 of its content: the same episode read twice has one id."""
        body = cls(id="", task_id=task_id, format=format, steps=steps, outcome=outcome, tools=tools)
        digest = hashlib.sha256(orjson.dumps(body.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)).hexdigest()
        return body.model_copy(update={"id": digest[:32]})
