"""Asking a language model: what a question is, and the one function that every way of asking comes down to."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import orjson

K = TypeVar("K")

TEMPERATURE = 0.0
SEED = 0
"""The likeliest answer, so that a job that is run again does not come to other examples."""


@dataclass(frozen=True)
class LLMRequest:
    """One question. Who wrote what is kept apart to the end: ours is the system message, the rest the user's."""

    instructions: str
    """Written by us."""
    record: str
    """JSON text of what the question is about, made by ``prompt.quote``: written by agents, users and tools."""
    max_tokens: int = 512

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": "system", "content": self.instructions}, {"role": "user", "content": self.record}]

    def digest(self, model: str) -> str:
        """SHA-256 of all that decides the answer."""
        return hashlib.sha256(
            orjson.dumps([model, self.instructions, self.record, self.max_tokens, TEMPERATURE, SEED])
        ).hexdigest()


Ask = Callable[[Sequence[LLMRequest]], list[str | None]]
"""Puts questions to a model, many at once. None where there was no answer in time, after whatever tries there were."""


def ask_each(ask: Ask, requests: Mapping[K, LLMRequest]) -> dict[K, str | None]:
    """The answers by the keys of their questions. Asks nothing if there are none."""
    return dict(zip(requests, ask(list(requests.values())), strict=True)) if requests else {}
