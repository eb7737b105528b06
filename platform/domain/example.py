"""An example: one piece of training data made from a trajectory, with a loss weight per turn.

Examples are chat messages, not tokens: they do not depend on the base model. Consolidation renders them with the base
model's own chat template.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from looper.platform.domain.trajectory import ToolCall


class Turn(BaseModel):
    """One chat message. ``weight`` multiplies the loss of its tokens: 0 for context, above 0 only for ``assistant``."""

    model_config = ConfigDict(frozen=True)

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    call_id: str | None = None
    weight: float = 0.0


class Example(BaseModel):
    """One example of one instance; ``task_id`` decides the split, ``trajectory_id`` says where it came from."""

    model_config = ConfigDict(frozen=True)

    id: str
    trajectory_id: str
    task_id: str
    turns: tuple[Turn, ...]
    tools: str | None = None
    """JSON text of the OpenAI tool list, or None."""
