"""OpenAI chat: ``{"messages": [...], "tools"?, "task_id"?, "reward"?, "success"?}``, or a bare list of messages.

One episode per line of a ``.jsonl`` file; a ``.json`` file holds one episode or a list of them. An episode without
``success`` succeeded if its ``reward`` is at least 1; without either it has no label.
"""

from typing import Any

from pydantic import BaseModel, Field, Json

from looper.platform.domain.trajectory import Outcome, Trajectory
from looper.platform.trajectories.episode import EpisodeBuilder
from looper.platform.trajectories.readers.messages import OpenAIMessage, add_message
from looper.platform.trajectories.readers.reader import Reader, has, is_list_of


class _Chat(BaseModel):
    messages: list[OpenAIMessage]
    tools: list[dict[str, Any]] | Json[list[dict[str, Any]]] | None = None
    task_id: str | int | None = None
    reward: float | None = Field(None, allow_inf_nan=False)
    success: bool | None = None


def _recognises(document: object) -> bool:
    return has(document, "messages") or is_list_of(document, "role") or is_list_of(document, "messages")


def _episodes(document: Any) -> list[object]:
    return list(document) if is_list_of(document, "messages") else [document]


def _trajectory(document: object) -> Trajectory:
    chat = _Chat.model_validate({"messages": document} if isinstance(document, list) else document)
    episode = EpisodeBuilder()
    for message in chat.messages:
        add_message(episode, message)
    success = chat.success
    if success is None and chat.reward is not None:
        success = chat.reward >= 1
    return episode.trajectory(
        task_id=None if chat.task_id is None else str(chat.task_id),
        format=READER.name,
        outcome=Outcome(success=success, reward=chat.reward),
        tools=chat.tools,
    )


READER = Reader("openai_chat", _recognises, _episodes, _trajectory)
