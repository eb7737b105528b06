"""The clients: send a load to an OpenAI-compatible endpoint when it is due, whether or not it keeps up, and watch."""

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import httpx

from looper.benchmarks.capacity.load.workload import WorkloadRequest
from looper.serve.gateway.app import ADAPTER_HEADER

Ready = Callable[[httpx.AsyncClient, int], Awaitable[None]]
"""What a client does before a request for an adapter, where a peer leaves it to its clients to have adapters loaded."""


PROMPTS = itertools.count()
"""Seeds: no prompt of this process begins as an earlier one does, which a server may have kept."""


@dataclass
class Answered:
    """What came of one request; times are seconds since the load began."""

    asked: WorkloadRequest
    tokens_s: list[float] = field(default_factory=list)
    """When each event of the answer came."""
    done_s: float | None = None
    """None: it failed."""
    failure: str | None = None
    tier: str | None = None
    """Where the adapter was found, if the peer says so."""

    @property
    def first_s(self) -> float:
        """From the moment at which it was due to its first token."""
        return self.tokens_s[0] - self.asked.at_s

    @property
    def gaps_s(self) -> list[float]:
        """Between its tokens."""
        return [after - before for before, after in zip(self.tokens_s, self.tokens_s[1:], strict=False)]


async def drive(
    url: str,
    headers: dict[str, str],
    asked: Sequence[WorkloadRequest],
    model_of: Callable[[int | None], str],
    *,
    vocabulary: int,
    within_s: float,
    ready: Ready | None = None,
) -> list[Answered]:
    """Ask ``url`` for completions of random tokens below ``vocabulary``; ``model_of`` names each adapter.

    Whoever has no whole answer ``within_s`` leaves. ``ready`` is awaited before each request for an adapter; that time
    counts.
    """
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=within_s, limits=limits) as client:
        began = time.perf_counter()

        async def one(answered: Answered) -> None:
            request = answered.asked
            await asyncio.sleep(max(0.0, request.at_s - (time.perf_counter() - began)))
            tokens = random.Random(next(PROMPTS)).choices(range(16, vocabulary), k=request.prompt)
            body = {
                "model": model_of(request.adapter),
                "prompt": tokens,
                "max_tokens": request.answer,
                "ignore_eos": True,
                "temperature": 0,
                "stream": True,
            }
            try:
                if ready is not None and request.adapter is not None:
                    await ready(client, request.adapter)
                async with client.stream("POST", "/v1/completions", json=body) as response:
                    answered.tier = response.headers.get(ADAPTER_HEADER)
                    if response.status_code != 200:
                        answered.failure = f"{response.status_code} {(await response.aread())[:200].decode()}"
                        return
                    async for line in response.aiter_lines():
                        if line.startswith('data: {"error"'):
                            answered.failure = line
                            return
                        if line.startswith("data: {"):
                            answered.tokens_s.append(time.perf_counter() - began)
            except httpx.HTTPError as error:
                answered.failure = f"{type(error).__name__}: {error}"
                return
            answered.done_s = time.perf_counter() - began

        async def in_time(request: WorkloadRequest) -> Answered:
            answered = Answered(request)
            try:
                async with asyncio.timeout(max(0.0, within_s - (time.perf_counter() - began))):
                    await one(answered)
            except TimeoutError:  # the tokens that it did get stay
                answered.failure = f"no whole answer within {within_s:g} s"
            return answered

        return await asyncio.gather(*map(in_time, asked))
