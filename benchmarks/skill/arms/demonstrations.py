"""Episodes as an agent's prompt has them: as earlier conversations or as text, retrieved, true or wrong on purpose."""

from collections.abc import Sequence

from looper.benchmarks.skill.player import PromptKnowledge
from looper.gym.episode import Message
from looper.jobs.synthesis.contexts.episodes import render_episodes
from looper.platform.domain.example import Turn
from looper.platform.domain.trajectory import ToolCall

Conversation = Sequence[Message]
"""The messages of an episode, the system's first."""


def show_conversations(conversations: Sequence[Conversation]) -> PromptKnowledge:
    """Put episodes into a prompt as conversations that the agent has had.

    Args:
        conversations: The episodes, in their order in the prompt.

    Returns:
        The knowledge. Ids of calls differ between the episodes, as an endpoint may want it.
    """
    turns = [
        _with_call_ids(message, f"e{number}-")
        for number, conversation in enumerate(conversations)
        for message in conversation[1:]
    ]
    return PromptKnowledge(turns=tuple(turns))


def show_text(conversations: Sequence[Conversation]) -> PromptKnowledge:
    """Put episodes into a prompt as text, in the form that Looper teaches its skills beside.

    Args:
        conversations: The episodes, in their order in the prompt.

    Returns:
        The knowledge.
    """
    return PromptKnowledge(render_episodes([_to_turns(conversation) for conversation in conversations]))


def to_text(conversation: Conversation) -> str:
    """Render one episode as text, for a model that writes a memory of it.

    Args:
        conversation: The episode.

    Returns:
        One line for each message and each call.
    """
    lines = []
    for message in conversation[1:]:
        name = {"tool": "result"}.get(message["role"], message["role"])
        lines += [f"{name}: {message['content']}"] if message.get("content") else []
        lines += [f"call: {raw['function']['name']} {raw['function']['arguments']}" for raw in _calls(message)]
    return "\n".join(lines)


def _to_turns(conversation: Conversation) -> list[Turn]:
    return [
        Turn(
            role=message["role"],
            content=message.get("content") or "",
            tool_calls=tuple(
                ToolCall(id=raw["id"], name=raw["function"]["name"], arguments=raw["function"]["arguments"])
                for raw in _calls(message)
            ),
        )
        for message in conversation
    ]


def _with_call_ids(message: Message, prefix: str) -> Message:
    if message["role"] == "tool":
        return {**message, "tool_call_id": prefix + message["tool_call_id"]}
    if calls := _calls(message):
        return {**message, "tool_calls": [{**raw, "id": prefix + raw["id"]} for raw in calls]}
    return message


def _calls(message: Message) -> Sequence[Message]:
    calls: Sequence[Message] = message.get("tool_calls") or ()
    return calls
