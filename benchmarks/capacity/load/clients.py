"""The clients of the load: send each request to an OpenAI-compatible server when it is due, and record the answer.

``bench`` and ``experiments`` call ``send_load``. The requests keep their times, whether or not the server keeps up.
"""

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import httpx

from looper.benchmarks.capacity.load.workload import WorkloadRequest
from looper.serve.gateway.completion_handler import ADAPTER_HEADER

PrepareAdapter = Callable[[httpx.AsyncClient, int], Awaitable[None]]
"""Called before a request for an adapter, for peers whose clients have to load adapters themselves."""

_PROMPT_SEEDS = itertools.count()
"""No two prompts of this process have a common prefix, which a server could have cached."""


@dataclass
class RequestResult:
    """The result of one request. Times are in seconds since the start of the load."""

    request: WorkloadRequest
    """The request."""
    token_times_s: list[float] = field(default_factory=list)
    """Arrival time of each event of the answer; there is one event per token."""
    finished_s: float | None = None
    """End of the answer; None for a request that failed."""
    error: str | None = None
    """Why the request failed."""
    tier: str | None = None
    """Cache tier in which the adapter was found, if the peer tells it."""

    @property
    def ttft_s(self) -> float:
        """Seconds from the moment when the request was due until its first token."""
        return self.token_times_s[0] - self.request.arrival_s

    @property
    def inter_token_s(self) -> list[float]:
        """Seconds between each two consecutive tokens."""
        times = self.token_times_s
        return [after - before for before, after in itertools.pairwise(times)]


async def send_load(
    url: str,
    headers: dict[str, str],
    requests: Sequence[WorkloadRequest],
    model_name: Callable[[int | None], str],
    *,
    vocab_size: int,
    timeout_s: float,
    prepare_adapter: PrepareAdapter | None = None,
) -> list[RequestResult]:
    """Request completions of random tokens, each when it is due.

    Args:
        url: URL of the server, without ``/v1``.
        headers: HTTP headers of all requests.
        requests: The load.
        model_name: Returns the model name of an adapter's number, or of the base model for None.
        vocab_size: Prompts consist of token ids below this number.
        timeout_s: Seconds since the start of the load after which clients without a complete answer give up.
        prepare_adapter: Awaited before each request for an adapter; its time counts.

    Returns:
        One result per request, in the order of ``requests``.
    """
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=timeout_s, limits=limits) as client:
        start = time.perf_counter()

        async def send(result: RequestResult) -> None:
            request = result.request
            await asyncio.sleep(max(0.0, request.arrival_s - (time.perf_counter() - start)))
            tokens = random.Random(next(_PROMPT_SEEDS)).choices(range(16, vocab_size), k=request.prompt_tokens)
            body = {
                "model": model_name(request.adapter),
                "prompt": tokens,
                "max_tokens": request.output_tokens,
                "ignore_eos": True,
                "temperature": 0,
                "stream": True,
            }
            try:
                if prepare_adapter is not None and request.adapter is not None:
                    await prepare_adapter(client, request.adapter)
                async with client.stream("POST", "/v1/completions", json=body) as response:
                    result.tier = response.headers.get(ADAPTER_HEADER)
                    if response.status_code != 200:
                        result.error = f"{response.status_code} {(await response.aread())[:200].decode()}"
                        return
                    async for line in response.aiter_lines():
                        if line.startswith('data: {"error"'):
                            result.error = line
                            return
                        if line.startswith("data: {"):
                            result.token_times_s.append(time.perf_counter() - start)
            except httpx.HTTPError as error:
                result.error = f"{type(error).__name__}: {error}"
                return
            result.finished_s = time.perf_counter() - start

        async def send_with_timeout(request: WorkloadRequest) -> RequestResult:
            result = RequestResult(request)
            try:
                async with asyncio.timeout(max(0.0, timeout_s - (time.perf_counter() - start))):
                    await send(result)
            except TimeoutError:  # the result keeps the tokens that have arrived
                result.error = f"the answer was not complete within {timeout_s:g} s"
            return result

        return await asyncio.gather(*map(send_with_timeout, requests))
