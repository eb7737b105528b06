"""Counts the tokens that vLLM's engine has read and generated for a request, at any time while the request runs.

``SkillServer.generate`` reports the counts to the gateway and to the admission queue. vLLM reports usage only at the
end of a response, and a client may leave before. So tokens are counted at the engine's output processor. Of a response
that is not streamed, it is the only place that sees tokens before the response is complete.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from looper.serve.protocol import TokenCounts

REPORT_INTERVAL_TOKENS = 16
"""Counts are reported after so many tokens even without output: before a full response, or within a tool call."""


class TokenMeter:
    """Counts the tokens of one engine's requests."""

    def __init__(self, output_processor: Any) -> None:
        """Hook into an engine.

        Args:
            output_processor: vLLM's ``OutputProcessor``, which every request and every token of the engine passes.
        """
        self._counters: WeakKeyDictionary[Any, _RequestCounter] = WeakKeyDictionary()
        states = output_processor.request_states
        vllm_add_request, vllm_process_outputs = output_processor.add_request, output_processor.process_outputs

        def add_request(request: Any, *args: Any, **kwargs: Any) -> None:
            vllm_add_request(request, *args, **kwargs)
            if counter := _current_counter.get():
                state = states[request.request_id]
                self._counters[state] = counter
                counter.add_prompt(request.external_req_id, state.prompt_len)

        def process_outputs(outputs: Any, *args: Any, **kwargs: Any) -> Any:
            for output in outputs:
                state = states.get(output.request_id)
                if state is not None and (counter := self._counters.get(state)):
                    counter.add_generated(len(output.new_token_ids))
            return vllm_process_outputs(outputs, *args, **kwargs)

        output_processor.add_request, output_processor.process_outputs = add_request, process_outputs

    async def count(self, outputs: AsyncIterable[Any]) -> AsyncGenerator[tuple[Any, TokenCounts], None]:
        """Pass a request's outputs on, each with the token counts so far.

        Args:
            outputs: vLLM's outputs for one request. Its requests to the engine are made while this is iterated.

        Yields:
            An output, or "" if only the counts have changed, and the counts.
        """
        counter = _RequestCounter()

        async def forward_outputs() -> None:
            _current_counter.set(counter)  # in this task, and in the tasks that vLLM starts from it
            try:
                async for output in outputs:
                    await counter.outputs.put(output)
            except Exception as error:
                await counter.outputs.put(_EndOfOutputs(error))
            else:
                await counter.outputs.put(_EndOfOutputs(None))

        task = asyncio.create_task(forward_outputs())
        try:
            while not isinstance(output := await counter.outputs.get(), _EndOfOutputs):
                yield output, counter.report()
            if output.error:
                raise output.error
        finally:
            task.cancel()
            # When vLLM is canceled, it produces one more output, which nobody takes.
            counter.outputs = asyncio.Queue()
            await asyncio.wait([task])  # until the engine has released the request


@dataclass(frozen=True)
class _EndOfOutputs:
    error: Exception | None


class _RequestCounter:
    """Counts of one client's request, which may be several requests to the engine."""

    def __init__(self) -> None:
        # Only one at a time: vLLM merges outputs that come faster than they are taken.
        self.outputs: asyncio.Queue[Any] = asyncio.Queue(1)
        self._prompt_tokens: dict[str, int] = {}  # by id of the prompt
        self._generated = self._reported = 0

    def add_prompt(self, request_id: str, tokens: int) -> None:
        """Count a prompt, unless a request with the same prompt has been counted."""
        # Beam search sends a new request for each token of each beam. Its id is the prompt's id, a random id, "beam"
        # and a number, joined with "-".
        prompt_id = request_id.rsplit("-", 3)[0] if "-beam-" in request_id else request_id
        self._prompt_tokens.setdefault(prompt_id, tokens)
        self._report_without_output()

    def add_generated(self, tokens: int) -> None:
        self._generated += tokens
        if self._generated - self._reported >= REPORT_INTERVAL_TOKENS:
            self._report_without_output()

    def report(self) -> TokenCounts:
        self._reported = self._generated
        return TokenCounts(sum(self._prompt_tokens.values()), self._generated)

    def _report_without_output(self) -> None:
        if self.outputs.empty():
            self.outputs.put_nowait("")


_current_counter: ContextVar[_RequestCounter | None] = ContextVar("current_counter", default=None)
