"""vLLM's beam search with a scripted engine: which priority its requests have."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from vllm import CompletionOutput, RequestOutput
from vllm.entrypoints.generate.beam_search.online import BeamSearchOnlineMixin
from vllm.logprobs import Logprob
from vllm.sampling_params import BeamSearchParams

from looper.serve.engine.admission import HIGH_PRIORITY, NORMAL_PRIORITY, AdmissionQueue
from looper.serve.engine.beam_search import inherit_priority, with_priority
from looper.serve.engine.skill_server import SkillServer
from looper.serve.engine.token_meter import TokenMeter
from looper.serve.protocol import EngineRequest


class ScriptedEngine:
    """Generates the tokens 1 to 4, the more likely the smaller, and notes the priority of each request."""

    def __init__(self) -> None:
        self.priorities: list[int] = []

    async def generate(self, prompt: Any, params: Any, request_id: str, *, priority: int = 0, **_: Any) -> Any:
        self.priorities.append(priority)
        await asyncio.sleep(0)
        logprobs: Any = [{token: Logprob(-token) for token in range(1, 5)}]
        output = CompletionOutput(0, "", [1], None, logprobs)
        yield RequestOutput(request_id, None, prompt["prompt_token_ids"], None, [output], True)


class BeamSearchServer(SkillServer):
    """A skill server whose completions are vLLM's beam search with a scripted engine."""

    def __init__(self, engine: ScriptedEngine) -> None:
        inherit_priority(engine)
        output_processor = SimpleNamespace(request_states={}, add_request=None, process_outputs=None)
        self.queue = self._admission_queue = AdmissionQueue(4, 4)
        self._token_meter, self._vocab_size, self._salt_key = TokenMeter(output_processor), 512, b""
        stubs: Any = SimpleNamespace(take_eviction_counts=dict, ready=self.ready, _oai_serving_chat=None)
        self._pager = self._grammars = self.engine = stubs
        self._scripted_engine = engine

    @asynccontextmanager
    async def ready(self, *_: Any) -> AsyncIterator[None]:
        yield

    async def completions(self, request: Any, *_: Any) -> Any:
        async def search() -> AsyncIterator[str]:
            async for _ in beams_of(self._scripted_engine):
                yield "data: {}\n\n"

        return search()


def beams_of(engine: ScriptedEngine) -> Any:
    tokenizer = SimpleNamespace(eos_token_id=0, decode=str)
    server: Any = SimpleNamespace(engine_client=engine, renderer=SimpleNamespace(get_tokenizer=lambda: tokenizer))
    prompt: Any = {"type": "token", "prompt_token_ids": [7]}
    return BeamSearchOnlineMixin.beam_search(server, prompt, "id", BeamSearchParams(beam_width=2, max_tokens=3))


@pytest.mark.parametrize("priority", [-1, 0, 3])
def test_every_beam_has_the_priority_of_its_request(priority: int) -> None:
    engine = ScriptedEngine()
    inherit_priority(engine)

    async def search(priority: int) -> None:
        async for _ in with_priority(beams_of(engine), priority):
            pass

    async def search_twice() -> None:
        await asyncio.gather(asyncio.create_task(search(priority)), asyncio.create_task(search(priority + 1)))

    asyncio.run(search_twice())
    assert sorted(engine.priorities) == [priority] * 5 + [priority + 1] * 5


def test_a_request_with_a_priority_of_its_own_keeps_it() -> None:
    engine = ScriptedEngine()
    inherit_priority(engine)

    async def generate() -> None:
        outputs: Any = engine.generate({"prompt_token_ids": [7]}, None, "id", priority=5)
        async for _ in with_priority(outputs, 2):
            pass

    asyncio.run(generate())
    assert engine.priorities == [5]


@pytest.mark.parametrize(("others", "priority"), [(0, NORMAL_PRIORITY), (4, HIGH_PRIORITY)])
def test_beams_have_the_priority_that_the_admission_queue_gave_their_request(others: int, priority: int) -> None:
    body = {"model": "m", "prompt": "hello", "use_beam_search": True, "n": 2, "max_tokens": 3}
    engine = ScriptedEngine()

    async def run() -> None:
        server = BeamSearchServer(engine)
        async with AsyncExitStack() as running:
            for _ in range(others):
                await running.enter_async_context(server.queue.admit("many", None, 1, num_seqs=1))
            async for _ in server.generate(EngineRequest("completions", body, None, 0, "one", num_seqs=2)):
                pass

    asyncio.run(run())
    assert engine.priorities == [priority] * 5
