"""Reads OpenAI chat: ``{"messages": [...], "tools"?, "task_id"?, "reward"?, "success"?}``, or a list of messages.

Source: OpenAI's chat completions API (https://platform.openai.com/docs/api-reference/chat). The task and outcome fields
are Looper's own. A ``.jsonl`` file has one episode per line; a ``.json`` file has one episode or a list of them. An
episode without ``success`` succeeded if its ``reward`` is at least 1. Without either it has no label.
"""

from typing import Any

from pydantic import BaseModel, Field, Json

from looper.platform.domain.trajectory import Outcome, Trajectory
from looper.platform.trajectories.episode import EpisodeBuilder
from looper.platform.trajectories.readers.openai_messages import OpenAIMessage, add_openai_message
from looper.platform.trajectories.readers.reader import Reader, has_keys, is_list_with_keys


class _Chat(BaseModel):
    messages: list[OpenAIMessage]
    tools: list[dict[str, Any]] | Json[list[dict[str, Any]]] | None = None
    task_id: str | int | None = None
    reward: float | None = Field(None, allow_inf_nan=False)
    success: bool | None = None


def _recognizes(document: object) -> bool:
    return (
        has_keys(document, "messages") or is_list_with_keys(document, "role") or is_list_with_keys(document, "messages")
    )


def _split_episodes(document: Any) -> list[object]:
    return list(document) if is_list_with_keys(document, "messages") else [document]


def _to_trajectory(document: object) -> Trajectory:
    chat = _Chat.model_validate({"messages": document} if isinstance(document, list) else document)
    episode = EpisodeBuilder()
    for message in chat.messages:
        add_openai_message(episode, message)
    success = chat.success
    if success is None and chat.reward is not None:
        success = chat.reward >= 1
    return episode.build(
        task_id=None if chat.task_id is None else str(chat.task_id),
        format=READER.name,
        outcome=Outcome(success=success, reward=chat.reward),
        tools=chat.tools,
    )


READER = Reader("openai_chat", _recognizes, _split_episodes, _to_trajectory)
