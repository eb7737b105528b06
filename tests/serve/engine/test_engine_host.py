"""What a replica makes of an engine that fails, without an engine."""

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest

from looper.serve.engine.engine_host import EngineHost
from looper.serve.protocol import EngineDied, EngineOutput, EngineRequest

REQUEST: Any = EngineRequest(
    endpoint="chat",
    body={},
    digest=None,
    rank=0,
    tenant_hash="",
    num_seqs=1,
    estimated_prompt_tokens=1,
    max_wait_s=None,
    trace_context={},
)


class FailingServer:
    """A skill server whose requests raise. vLLM has not noticed that the engine is dead."""

    client = SimpleNamespace(errored=False)

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def generate(self, _: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
        for output in self._fail():
            yield output

    def _fail(self) -> list[EngineOutput]:
        raise self._error


def generate(monkeypatch: pytest.MonkeyPatch, error: Exception) -> tuple[list[Any], list[Any]]:
    """Return the outputs of a request at which ``error`` is raised, and the servers that were replaced."""
    replaced: list[Any] = []
    monkeypatch.setattr(EngineHost, "_replace", lambda _, server: replaced.append(server))

    async def run() -> list[Any]:
        host = EngineHost.__new__(EngineHost)
        host._server, host._running, host._replica = FailingServer(error), {}, "replica"  # type: ignore[assignment]
        host._start_s = host._died_at = 0.0
        return [output async for output in host.generate(REQUEST)]

    return asyncio.run(run()), replaced


def test_a_lost_connection_to_a_worker_is_the_engine_s_death(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, replaced = generate(monkeypatch, ConnectionResetError("connection reset by peer"))
    assert [type(output) for output in outputs] == [EngineDied]
    assert len(replaced) == 1


def test_any_other_error_is_only_the_request_s(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="odd"):
        generate(monkeypatch, ValueError("odd"))
