"""The gym's held-out tasks, put to models over HTTP with the official OpenAI client."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import openai

from looper.gym.episode import Message, run_episode
from looper.gym.workplace import WorkplaceTask

ANSWER_TOKENS = 64
"""More than any turn of an expert takes; a base model that rambles is cut here."""


@dataclass(frozen=True)
class Question:
    """One task for one model; ``client`` carries the tenant's key."""

    client: openai.OpenAI
    model: str
    task: WorkplaceTask


def solve_all(questions: Sequence[Question], *, at_once: int, done: Callable[[int], None]) -> list[bool]:
    """Whether each question's model, acting turn by turn, ended in the state that the task asks for.

    ``done`` is told how many episodes have ended.
    """
    ended = 0

    def solve(question: Question) -> bool:
        nonlocal ended
        solved = run_episode(question.task, partial(_answer, question), end_loops=True).success
        ended += 1
        done(ended)
        return solved

    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(solve, questions))


def _answer(question: Question, messages: list[Message], tools: list[Message]) -> Message:
    history: Any = messages
    schemas: Any = tools
    answer = question.client.chat.completions.create(
        model=question.model, messages=history, tools=schemas, temperature=0.0, max_tokens=ANSWER_TOKENS
    )
    return answer.choices[0].message.model_dump(exclude_none=True)
