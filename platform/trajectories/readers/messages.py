"""OpenAI chat messages, which half of the formats are made of."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from looper.platform.domain.errors import MalformedTrajectory
from looper.platform.trajectories.episode import EpisodeBuilder, RecordedCall


class OpenAIContentPart(BaseModel):
    type: str = "text"
    text: str | None = None


Content = str | list[str | OpenAIContentPart] | None


class OpenAIFunction(BaseModel):
    name: str
    arguments: str | dict[str, Any] | None = None


class OpenAIToolCall(BaseModel):
    id: str | None = None
    function: OpenAIFunction

    def as_call(self) -> RecordedCall:
        return RecordedCall(self.function.name, self.function.arguments, self.id)


class OpenAIMessage(BaseModel):
    model_config = ConfigDict(extra="ignore")

    role: str
    content: Content = None
    reasoning_content: str | None = None
    tool_calls: list[OpenAIToolCall] | None = None
    tool_call_id: str | None = None


_SPEAKERS: dict[str, Literal["system", "user"]] = {"system": "system", "developer": "system", "user": "user"}


def text_of(content: Content) -> str:
    """The text of a message's content; a part that is no text is named in its place, such as ``[image_url]``."""
    if content is None or isinstance(content, str):
        return content or ""
    parts = (part if isinstance(part, str) else part.text or f"[{part.type}]" for part in content)
    return "\n".join(parts)


def thought_and_text(thought: str | None, text: str) -> str:
    """What the agent thought, then what it said: both are its own work."""
    return "\n\n".join(part for part in (thought, text) if part)


def add_message(episode: EpisodeBuilder, message: OpenAIMessage) -> None:
    """Add one chat message to the episode; raises MalformedTrajectory for a role that the protocol does not have."""
    text = text_of(message.content)
    if message.role == "assistant":
        calls = [call.as_call() for call in message.tool_calls or ()]
        episode.say("agent", thought_and_text(message.reasoning_content, text), calls)
    elif message.role == "tool":
        episode.observe(message.tool_call_id, text)
    elif message.role in _SPEAKERS:
        episode.say(_SPEAKERS[message.role], text)
    else:
        raise MalformedTrajectory(
            "unknown_role", f"role {message.role!r} is none of system, developer, user, assistant, tool"
        )
