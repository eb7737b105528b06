"""Gives the requests that beam search sends to the engine the priority of the client's request.

vLLM's beam search sends a request for each token of each beam, without a priority. They would count as normal ones,
whatever the admission queue has decided. ``SkillServer`` wraps the engine once, and each response in
``with_priority``.
"""

from collections.abc import AsyncGenerator, AsyncIterable
from contextvars import ContextVar
from typing import Any

_priority: ContextVar[int] = ContextVar("priority", default=0)


def inherit_priority(engine_client: Any) -> None:
    """Make an engine's requests without a priority inherit the one of ``with_priority``.

    Args:
        engine_client: vLLM's ``AsyncLLM``.
    """
    vllm_generate = engine_client.generate

    def generate(*args: Any, **kwargs: Any) -> Any:
        return vllm_generate(*args, **({"priority": _priority.get()} | kwargs))

    engine_client.generate = generate


async def with_priority(outputs: AsyncIterable[Any], priority: int) -> AsyncGenerator[Any, None]:
    """Pass a response's outputs on. Its requests to the engine have a priority.

    Args:
        outputs: vLLM's outputs for one request. Its requests to the engine are made while this is iterated.
        priority: The priority in vLLM.

    Yields:
        The outputs.
    """
    _priority.set(priority)  # in the task that iterates, and in the tasks that vLLM starts from it
    async for output in outputs:
        yield output
