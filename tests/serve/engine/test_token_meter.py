"""Counts of one request, on an output processor that does nothing: vLLM's own is met in test_paid."""

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest

from looper.serve.engine.token_meter import STRIDE, Meter
from looper.serve.protocol import Tokens


class State:
    def __init__(self, prompt_len: int) -> None:
        self.prompt_len = prompt_len


class Outputs:
    """Where vLLM's engine takes requests in and gives tokens out."""

    def __init__(self) -> None:
        self.request_states: dict[str, State] = {}

    def add_request(self, request: Any) -> None:
        self.request_states[request.request_id] = State(request.prompt_len)

    def process_outputs(self, steps: list[Any]) -> None:
        pass


def test_beam_search_reads_its_prompt_once_and_what_nobody_counts_is_let_pass() -> None:
    outputs = Outputs()
    meter = Meter(outputs)

    def step(id: str, tokens: int) -> None:
        outputs.process_outputs([SimpleNamespace(request_id=id, new_token_ids=[0] * tokens)])

    def add(id: str, external: str, prompt_len: int) -> None:
        outputs.add_request(SimpleNamespace(request_id=id, external_req_id=external, prompt_len=prompt_len))

    async def beams() -> AsyncGenerator[str, None]:
        for number, beam in enumerate(("cmpl-x-0-ab-beam-0", "cmpl-x-0-cd-beam-0", "cmpl-x-0-cd-beam-1")):
            add(f"{number}", beam, 5 + number)
            step(f"{number}", 1)
        add("other", "cmpl-x-1-ef-beam-0", 9)
        yield "said"

    async def run() -> list[tuple[Any, Tokens]]:
        add("warm-up", "warm-up", 7)
        step("warm-up", 7)
        step("unknown", 7)
        return [item async for item in meter.counted(beams())]

    assert asyncio.run(run()) == [("", Tokens(14, 3)), ("said", Tokens(14, 3))]


@pytest.mark.parametrize("late", [False, True])
def test_counts_come_while_nothing_is_said_and_whoever_leaves_has_seen_the_request_end(late: bool) -> None:
    outputs = Outputs()
    meter, ended = Meter(outputs), asyncio.Event()

    async def endless() -> AsyncGenerator[str, None]:
        outputs.add_request(SimpleNamespace(request_id="0", external_req_id="cmpl-x-0", prompt_len=5))
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not late:
                raise
            yield "Client disconnected"  # so vLLM ends a whole answer that is cancelled
            yield "and more"
        finally:
            ended.set()

    async def run() -> list[Tokens]:
        counts = meter.counted(endless())
        seen = [(await anext(counts))[1]]
        for tokens in (STRIDE - 1, 1, STRIDE):
            outputs.process_outputs([SimpleNamespace(request_id="0", new_token_ids=[0] * tokens)])
        seen.append((await anext(counts))[1])
        await counts.aclose()
        assert ended.is_set()
        return seen

    assert asyncio.run(run()) == [Tokens(5, 0), Tokens(5, 2 * STRIDE)]


def test_what_vllm_raises_comes_after_what_it_has_said() -> None:
    async def broken() -> AsyncGenerator[str, None]:
        yield "said"
        raise ValueError("broken")

    async def run() -> None:
        counts = Meter(Outputs()).counted(broken())
        assert await anext(counts) == ("said", Tokens(0, 0))
        with pytest.raises(ValueError, match="broken"):
            await anext(counts)

    asyncio.run(run())
