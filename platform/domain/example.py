"""An example: one training conversation, made from a trajectory, with a loss weight for each turn.

Synthesis writes examples and training reads them. Examples contain chat messages, not tokens, so they do not depend on
the base model. Training renders them with the base model's own chat template.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from looper.platform.domain.trajectory import ToolCall


class Turn(BaseModel):
    """One chat message."""

    model_config = ConfigDict(frozen=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    """Author of the message."""
    content: str = ""
    """Text of the message."""
    reasoning: str = ""
    """What the agent thought before an assistant message."""
    tool_calls: tuple[ToolCall, ...] = ()
    """Tool calls of an assistant message."""
    call_id: str | None = None
    """For a tool message, the id of the call that it answers."""
    weight: float = 0.0
    """Factor of the loss of the message's tokens. 0 for context; above 0 only for assistant messages."""


class Example(BaseModel):
    """One example of one instance."""

    model_config = ConfigDict(frozen=True)

    id: str
    """Id of the example."""
    trajectory_id: str
    """Id of the trajectory that the example was made from."""
    task_id: str
    """Task of the trajectory. All examples of a task are either training or held-out examples."""
    turns: tuple[Turn, ...]
    """The conversation."""
    tools: str | None = None
    """JSON text of the OpenAI tool list, or None."""


def name_rendering(example_id: str, context: str, number: int) -> str:
    """Return the id of an example that is rendered again in another context.

    Args:
        example_id: Id of the example as it was recorded.
        context: Name of the context.
        number: Number of the rendering in this context, from 0.

    Returns:
        The id.
    """
    return f"{example_id}.{context}.{number}"


def find_context(example_id: str) -> str:
    """Return the context that an example was rendered in, by its id.

    Args:
        example_id: Id of an example.

    Returns:
        The name of the context, or an empty text for an example as it was recorded.
    """
    return example_id.partition(".")[2].rpartition(".")[0]
