"""OpenAI's chat messages, which several formats are made of (https://platform.openai.com/docs/api-reference/chat).

Used by the readers of ``openai_chat``, ``tau_bench``, ``swe_agent``, ``openhands`` and ``atif``.
"""

from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from looper.platform.domain.errors import MalformedTrajectory
from looper.platform.trajectories.episode import EpisodeBuilder, RecordedCall


class OpenAIContentPart(BaseModel):
    """One part of a message's content."""

    type: str = "text"
    """``text``, or the kind of another part, such as ``image_url``."""
    text: str | None = None
    """Text of the part, None for other kinds."""


Content = str | list[str | OpenAIContentPart] | None
"""Content of a message: text, parts, or nothing."""


class OpenAIFunction(BaseModel):
    """The function that a call names."""

    name: str
    """Name of the tool."""
    arguments: str | dict[str, Any] | None = None
    """JSON text in OpenAI's own form; some sources write the parsed object."""


class OpenAIToolCall(BaseModel):
    """One tool call of an assistant message."""

    id: str | None = None
    """Id of the call; some sources have none."""
    function: OpenAIFunction
    """What is called."""

    def to_recorded_call(self) -> RecordedCall:
        """Return the call in the form that ``EpisodeBuilder`` takes."""
        return RecordedCall(self.function.name, self.function.arguments, self.id)


class OpenAIMessage(BaseModel):
    """One chat message. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    role: str
    """``system``, ``developer``, ``user``, ``assistant`` or ``tool``."""
    content: Content = None
    """Text or parts."""
    reasoning: str | None = Field(default=None, validation_alias=AliasChoices("reasoning", "reasoning_content"))
    """Reasoning of the model, where the source keeps it."""
    tool_calls: list[OpenAIToolCall] | None = None
    """Calls of an assistant message."""
    tool_call_id: str | None = None
    """Id of the call that a tool message answers."""


_PROMPT_SOURCES: dict[str, Literal["system", "developer", "user"]] = {
    "system": "system",
    "developer": "developer",
    "user": "user",
}


def message_text(content: Content) -> str:
    """Return the text of a message's content.

    Args:
        content: Text or parts.

    Returns:
        The text. A part that is not text is named in its place, such as ``[image_url]``.
    """
    if content is None or isinstance(content, str):
        return content or ""
    parts = (part if isinstance(part, str) else part.text or f"[{part.type}]" for part in content)
    return "\n".join(parts)


def add_openai_message(episode: EpisodeBuilder, message: OpenAIMessage) -> None:
    """Add one chat message to an episode.

    Args:
        episode: The episode.
        message: The message.

    Raises:
        MalformedTrajectory: The role is not one of OpenAI's (reason ``unknown_role``), or a tool message answers no
            call (reason ``orphan_result``).
    """
    text = message_text(message.content)
    if message.role == "assistant":
        calls = [call.to_recorded_call() for call in message.tool_calls or ()]
        episode.add_message("agent", text, calls, reasoning=message.reasoning or "")
    elif message.role == "tool":
        episode.add_tool_result(message.tool_call_id, text)
    elif message.role in _PROMPT_SOURCES:
        episode.add_message(_PROMPT_SOURCES[message.role], text)
    else:
        raise MalformedTrajectory(
            "unknown_role", f"role {message.role!r} is not one of system, developer, user, assistant, tool"
        )
