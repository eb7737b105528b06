"""How many tokens vLLM's engine has read and generated for a request, at any time while it is answered.

What vLLM reports as usage comes with the end of an answer, which its client need not wait for. So tokens are counted
where the engine's outputs come in, the one place that sees those of a whole answer before it is whole.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from looper.serve.protocol import Tokens

STRIDE = 16
"""After so many tokens a count is told even if there is nothing to say: a whole answer, a tool call not yet parsed."""


class Meter:
    """Of one engine."""

    def __init__(self, outputs: Any) -> None:
        """``outputs`` is the engine's OutputProcessor: every request enters it, and every token passes it."""
        self._counts: WeakKeyDictionary[Any, _Count] = WeakKeyDictionary()
        add, process, states = outputs.add_request, outputs.process_outputs, outputs.request_states

        def add_request(request: Any, *rest: Any, **named: Any) -> None:
            add(request, *rest, **named)
            if count := _counting.get():
                state = states[request.request_id]
                self._counts[state] = count
                count.reads(request.external_req_id, state.prompt_len)

        def process_outputs(steps: Any, *rest: Any, **named: Any) -> Any:
            for step in steps:
                state = states.get(step.request_id)
                if state is not None and (count := self._counts.get(state)):
                    count.generates(len(step.new_token_ids))
            return process(steps, *rest, **named)

        outputs.add_request, outputs.process_outputs = add_request, process_outputs

    async def counted(self, replies: AsyncIterable[Any]) -> AsyncGenerator[tuple[Any, Tokens], None]:
        """Each of ``replies``, vLLM's for one request, with what has been counted for it; "" where nothing was said."""
        count = _Count()

        async def pump() -> None:
            _counting.set(count)  # in this task, and in those that vLLM starts from it
            try:
                async for reply in replies:
                    await count.replies.put(reply)
            except Exception as failure:
                await count.replies.put(_Ended(failure))
            else:
                await count.replies.put(_Ended(None))

        pumping = asyncio.create_task(pump())
        try:
            while not isinstance(reply := await count.replies.get(), _Ended):
                yield reply, count.tell()
            if reply.failure:
                raise reply.failure
        finally:
            pumping.cancel()
            count.replies = asyncio.Queue()  # vLLM makes of its cancelling one more reply, which nobody takes
            await asyncio.wait([pumping])  # until the engine has let go of the request


@dataclass(frozen=True)
class _Ended:
    failure: Exception | None


class _Count:
    """Of one request of ours, which may be several of the engine's."""

    def __init__(self) -> None:
        # One at a time, so that vLLM goes on joining what comes faster than it is taken.
        self.replies: asyncio.Queue[Any] = asyncio.Queue(1)
        self._prompts: dict[str, int] = {}
        self._generated = self._told = 0

    def reads(self, id: str, tokens: int) -> None:
        """A prompt, or once more the one of that id, for another answer to it."""
        # Beam search asks anew for each token of each beam, under the prompt's id, a random one, "beam" and a number.
        self._prompts.setdefault(id.rsplit("-", 3)[0] if "-beam-" in id else id, tokens)
        self._tell_alone()

    def generates(self, tokens: int) -> None:
        self._generated += tokens
        if self._generated - self._told >= STRIDE:
            self._tell_alone()

    def tell(self) -> Tokens:
        self._told = self._generated
        return Tokens(sum(self._prompts.values()), self._generated)

    def _tell_alone(self) -> None:
        if self.replies.empty():
            self.replies.put_nowait("")


_counting: ContextVar[_Count | None] = ContextVar("counting", default=None)
