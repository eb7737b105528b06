"""Let models work on held-out tasks of the gym over HTTP, through the official OpenAI client.

``run`` calls ``run_episodes`` with the base model and with each skill.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import openai

from looper.gym.episode import EpisodeResult, Message, run_episode
from looper.gym.workplace import WorkplaceTask

MAX_ANSWER_TOKENS = 64
"""Tokens of one turn. An expert needs fewer in every turn; a base model that does not stop is cut off here."""


@dataclass(frozen=True)
class EpisodeRequest:
    """One task for one model."""

    client: openai.OpenAI
    """Client with the API key of the tenant."""
    model: str
    """Name of the base model or of a skill."""
    task: WorkplaceTask
    """The task."""
    knowledge: str = ""
    """What the agent's knowledge layer puts at the end of the system message."""


def run_episodes(
    requests: Sequence[EpisodeRequest], *, max_concurrency: int, on_progress: Callable[[int], None]
) -> list[EpisodeResult]:
    """Run one episode per request, turn by turn over HTTP.

    Args:
        requests: The tasks and the models.
        max_concurrency: Maximum number of episodes that run at the same time.
        on_progress: Called after each episode with the number of episodes that have ended.

    Returns:
        The result of each episode, in the order of ``requests``.
    """
    ended = 0

    def run(request: EpisodeRequest) -> EpisodeResult:
        nonlocal ended
        result = run_episode(request.task, partial(_next_message, request), end_loops=True)
        ended += 1
        on_progress(ended)
        return result

    with ThreadPoolExecutor(max_concurrency) as pool:
        return list(pool.map(run, requests))


def _next_message(request: EpisodeRequest, messages: list[Message], tools: list[Message]) -> Message:
    system, *others = messages
    history: Any = [{**system, "content": f"{system['content']}\n{request.knowledge}".rstrip()}, *others]
    schemas: Any = tools
    answer = request.client.chat.completions.create(
        model=request.model, messages=history, tools=schemas, temperature=0.0, max_tokens=MAX_ANSWER_TOKENS
    )
    return answer.choices[0].message.model_dump(exclude_none=True)
