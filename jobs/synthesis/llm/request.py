"""Requests to a language model, and the type of the function that sends them.

The stages in this folder build requests with ``prompt.build_request`` and pass them to a ``Generate`` function, which
``model_factory.open_model`` chooses.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import orjson

K = TypeVar("K")

TEMPERATURE = 0.0
"""Sampling temperature: greedy decoding, so that a job that runs again does not produce other examples."""
SEED = 0
"""Sampling seed, for the same reason."""


@dataclass(frozen=True)
class LLMRequest:
    """One request to a language model. Our instructions and the text of others are separate messages."""

    instructions: str
    """The system message, written by us."""
    record: str
    """The user message: JSON text made by ``prompt.quote_record``, with texts of agents, users and tools."""
    max_tokens: int = 512
    """Maximum number of tokens of the response."""

    @property
    def messages(self) -> list[dict[str, str]]:
        """The messages of a chat completion."""
        return [{"role": "system", "content": self.instructions}, {"role": "user", "content": self.record}]

    def digest(self, model: str) -> str:
        """Return the key under which the response is cached.

        Args:
            model: Name of the model.

        Returns:
            SHA-256 of everything that determines the response, in hexadecimal.
        """
        return hashlib.sha256(
            orjson.dumps([model, self.instructions, self.record, self.max_tokens, TEMPERATURE, SEED])
        ).hexdigest()


Generate = Callable[[Sequence[LLMRequest]], list[str | None]]
"""Sends a batch of requests to a model and returns the responses. None where all attempts got no response in time."""


def generate_by_key(generate: Generate, requests: Mapping[K, LLMRequest]) -> dict[K, str | None]:
    """Send requests and return the responses by key. Without requests, the model is not called.

    Args:
        generate: Sends the requests.
        requests: The requests, by any key.

    Returns:
        The responses by the same keys.
    """
    return dict(zip(requests, generate(list(requests.values())), strict=True)) if requests else {}
