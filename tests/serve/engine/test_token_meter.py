"""Token counts of one request, with a fake output processor. test_usage_accounting uses vLLM's."""

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest

from looper.serve.engine.token_meter import REPORT_INTERVAL_TOKENS, TokenMeter
from looper.serve.protocol import TokenCounts


class RequestState:
    def __init__(self, prompt_len: int) -> None:
        self.prompt_len = prompt_len


class FakeOutputProcessor:
    """The part of vLLM's OutputProcessor that the meter hooks into."""

    def __init__(self) -> None:
        self.request_states: dict[str, RequestState] = {}

    def add_request(self, request: Any) -> None:
        self.request_states[request.request_id] = RequestState(request.prompt_len)

    def process_outputs(self, outputs: list[Any]) -> None:
        pass


def test_beam_search_counts_its_prompt_once_and_other_requests_are_not_counted() -> None:
    processor = FakeOutputProcessor()
    meter = TokenMeter(processor)

    def step(id: str, tokens: int) -> None:
        processor.process_outputs([SimpleNamespace(request_id=id, new_token_ids=[0] * tokens)])

    def add(id: str, external: str, prompt_len: int) -> None:
        processor.add_request(SimpleNamespace(request_id=id, external_req_id=external, prompt_len=prompt_len))

    async def beams() -> AsyncGenerator[str, None]:
        for number, beam in enumerate(("cmpl-x-0-ab-beam-0", "cmpl-x-0-cd-beam-0", "cmpl-x-0-cd-beam-1")):
            add(f"{number}", beam, 5 + number)
            step(f"{number}", 1)
        add("other", "cmpl-x-1-ef-beam-0", 9)
        yield "text"

    async def run() -> list[tuple[Any, TokenCounts]]:
        add("warm-up", "warm-up", 7)
        step("warm-up", 7)
        step("unknown", 7)
        return [item async for item in meter.count(beams())]

    assert asyncio.run(run()) == [("", TokenCounts(14, 3)), ("text", TokenCounts(14, 3))]


@pytest.mark.parametrize("outputs_after_cancel", [False, True])
def test_counts_are_reported_without_output_and_closing_waits_for_the_request_to_end(
    outputs_after_cancel: bool,
) -> None:
    processor = FakeOutputProcessor()
    meter, ended = TokenMeter(processor), asyncio.Event()

    async def endless() -> AsyncGenerator[str, None]:
        processor.add_request(SimpleNamespace(request_id="0", external_req_id="cmpl-x-0", prompt_len=5))
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not outputs_after_cancel:
                raise
            yield "Client disconnected"  # vLLM ends a canceled full response like this
            yield "and more"
        finally:
            ended.set()

    async def run() -> list[TokenCounts]:
        counts = meter.count(endless())
        reported = [(await anext(counts))[1]]
        for tokens in (REPORT_INTERVAL_TOKENS - 1, 1, REPORT_INTERVAL_TOKENS):
            processor.process_outputs([SimpleNamespace(request_id="0", new_token_ids=[0] * tokens)])
        reported.append((await anext(counts))[1])
        await counts.aclose()
        assert ended.is_set()
        return reported

    assert asyncio.run(run()) == [TokenCounts(5, 0), TokenCounts(5, 2 * REPORT_INTERVAL_TOKENS)]


def test_an_error_of_vllm_is_raised_after_its_outputs() -> None:
    async def broken() -> AsyncGenerator[str, None]:
        yield "text"
        raise ValueError("broken")

    async def run() -> None:
        counts = TokenMeter(FakeOutputProcessor()).count(broken())
        assert await anext(counts) == ("text", TokenCounts(0, 0))
        with pytest.raises(ValueError, match="broken"):
            await anext(counts)

    asyncio.run(run())
