"""Ask a model through OpenAI's API, and count what it costs.

Each episode and each memory has its own ``MeteredChat``. ``player.py`` and the memory systems ask through it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import openai

from looper.gym.episode import Message
from looper.platform.domain.errors import LooperError

MAX_TURN_TOKENS = 96
"""Tokens of one turn. An expert's longest turn has half of them; a base model that does not stop is cut off here."""


@dataclass
class ChatUsage:
    """What the requests of an episode or of a memory have cost."""

    requests: int = 0
    """Number of requests."""
    prompt_tokens: int = 0
    """Tokens of all prompts, as they are billed: each request sends its whole prompt again."""
    cached_tokens: int | None = 0
    """Prompt tokens that the engine had in its prefix cache. None: the endpoint does not say."""
    completion_tokens: int = 0
    """Tokens that the model wrote."""


class MeteredChat:
    """One model at an endpoint, greedy.

    Attributes:
        model: Name of the model.
        usage: What has been asked so far.
        refusals: Number of requests that the endpoint refused, which it does if the prompt is too long for the model.
    """

    def __init__(self, client: openai.OpenAI, model: str) -> None:
        """Ask nothing yet.

        Args:
            client: Client of the endpoint.
            model: Name of the model.
        """
        self.model = model
        self.usage = ChatUsage()
        self.refusals = 0
        self._client = client

    def ask(
        self, messages: Sequence[Message], tools: Sequence[Message] = (), max_tokens: int = MAX_TURN_TOKENS
    ) -> Message:
        """Return the model's next message.

        Args:
            messages: The messages so far.
            tools: Tools in the format of OpenAI's API.
            max_tokens: Maximum tokens of the message.

        Returns:
            A message in the format of OpenAI's API. An empty one if the endpoint refuses the request.

        Raises:
            LooperError: The endpoint did not answer, although the client has tried again.
        """
        history: Any = list(messages)
        schemas: Any = list(tools) or openai.omit
        try:
            answer = self._client.chat.completions.create(
                model=self.model, messages=history, tools=schemas, temperature=0.0, max_tokens=max_tokens
            )
        except openai.BadRequestError:
            self.refusals += 1
            return {"role": "assistant", "content": ""}
        except openai.APIError as error:
            raise LooperError(
                f"model {self.model} did not answer: {error}: the same command goes on after the last finished episode"
            ) from error
        self._count(answer.usage)
        return answer.choices[0].message.model_dump(exclude_none=True)

    def write(self, instruction: str, max_tokens: int) -> str:
        """Return the text that the model writes for an instruction.

        Args:
            instruction: What the user says.
            max_tokens: Maximum tokens of the text.

        Returns:
            The text; empty if the endpoint refuses the request.
        """
        message = self.ask([{"role": "user", "content": instruction}], max_tokens=max_tokens)
        return str(message.get("content") or "").strip()

    def _count(self, usage: openai.types.CompletionUsage | None) -> None:
        self.usage.requests += 1
        if usage is None:
            return
        self.usage.prompt_tokens += usage.prompt_tokens
        self.usage.completion_tokens += usage.completion_tokens
        details = usage.prompt_tokens_details
        cached = None if details is None else details.cached_tokens
        before = self.usage.cached_tokens
        self.usage.cached_tokens = None if before is None or cached is None else before + cached
