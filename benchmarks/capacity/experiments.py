"""What Looper promises besides throughput, each measured on a server that is up.

An experiment is a function of ``ExperimentContext`` that returns figures, seconds unless their name says otherwise.
"""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from looper.benchmarks.capacity.fixtures import CapacityFixtures, instance
from looper.benchmarks.capacity.load.clients import Answered, drive
from looper.benchmarks.capacity.load.workload import WorkloadRequest
from looper.benchmarks.capacity.peers.peers import Endpoint
from looper.platform.catalog import Catalog
from looper.platform.tenancy import issue_key

Figures = dict[str, float]

FRESH = 100
"""Adapters that the experiments take."""


@dataclass(frozen=True)
class ExperimentContext:
    """A Looper that is up, and adapters that nobody has asked for, from ``fresh`` on."""

    endpoint: Endpoint
    world: CapacityFixtures
    catalog: Catalog
    vocabulary: int
    fresh: int
    requests_per_s: float
    """That it answers at full load."""

    async def drive(
        self, asked: Sequence[WorkloadRequest], within_s: float, *, key: str | None = None
    ) -> list[Answered]:
        headers = {"authorization": f"Bearer {key}"} if key else self.endpoint.headers
        model_of = self.endpoint.model if key is None else lambda adapter: self.endpoint.base
        return await drive(self.endpoint.url, headers, asked, model_of, vocabulary=self.vocabulary, within_s=within_s)

    def client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=None)
        return httpx.AsyncClient(base_url=self.endpoint.url, headers=self.endpoint.headers, timeout=120, limits=limits)


async def warm_beside_cold(scene: ExperimentContext) -> Figures:
    """Time between tokens of four streams on warm adapters: quiet, and while a hundred cold adapters load.

    The hundred are requests, too, whose prompts the engine reads: what those alone take is told by the same requests
    for the warm adapters.
    """
    streams = [WorkloadRequest(at_s=0.0, adapter=number, prompt=16, answer=400) for number in range(4)]
    await scene.drive([each.model_copy(update={"answer": 4}) for each in streams], 60)
    quiet = await scene.drive(streams, 600)
    lasts_s = max(answer.done_s or 0.0 for answer in quiet)

    async def beside(adapters: Sequence[int]) -> list[Answered]:
        # Spread over the time that the streams last, so that they are beside all of the loading.
        others = [
            WorkloadRequest(at_s=0.5 + number * 0.8 * lasts_s / len(adapters), adapter=adapter, prompt=8, answer=1)
            for number, adapter in enumerate(adapters)
        ]
        return await scene.drive([*streams, *others], 600)

    warm = await beside([number % 4 for number in range(100)])
    cold = await beside(range(scene.fresh, scene.fresh + 100))

    def p99(answers: Sequence[Answered]) -> float:
        return float(np.percentile([gap for answer in answers[:4] for gap in answer.gaps_s], 99))

    return {
        "cold_loaded_count": sum(answer.tier == "store" for answer in cold[4:]),
        "quiet_p99": p99(quiet),
        "beside_warm_p99": p99(warm),
        "beside_cold_p99": p99(cold),
        "ratio": p99(cold) / p99(quiet),
        "ratio_to_beside_warm": p99(cold) / p99(warm),
    }


async def canary(scene: ExperimentContext) -> Figures:
    """The share of 1,000 requests that a canary of 10 % answers."""
    name = instance(scene.fresh)
    other, prod = await asyncio.to_thread(scene.world.renew, scene.catalog, scene.fresh)
    await asyncio.to_thread(scene.catalog.point, name, "canary", other, 0.1)
    counts: Counter[str] = Counter()
    async with scene.client() as client:

        async def ask(_: int) -> None:
            counts[(await _complete(client, str(name), 1)).headers["x-looper-version"]] += 1

        await _together(ask, 1000, 16)
    await asyncio.to_thread(scene.catalog.drop, name, "canary")
    return {"share": counts[other] / counts.total(), "others_count": counts.total() - counts[other] - counts[prod]}


async def promotion(scene: ExperimentContext) -> Figures:
    """Promotions and rollbacks of a skill that sixteen clients ask without a pause."""
    name = instance(scene.fresh + 1)
    first, second = await asyncio.to_thread(scene.world.renew, scene.catalog, scene.fresh + 1)
    await asyncio.to_thread(scene.catalog.point, name, "prod", first)
    took: list[float] = []
    late = failed = answered = 0
    pointed: list[tuple[float, str]] = [(0.0, first)]
    over = asyncio.Event()
    async with scene.client() as client:

        async def ask() -> None:
            nonlocal late, failed, answered
            while not over.is_set():
                began, expected = time.perf_counter(), pointed[-1]
                answer = await _complete(client, str(name), 8)
                if answer.status_code != 200:
                    failed += 1
                    continue
                answered += 1
                # It was asked after the promotion had returned, and no other began before it ended.
                if pointed[-1] == expected and began > expected[0]:
                    late += answer.headers["x-looper-version"] != expected[1]

        asking = [asyncio.create_task(ask()) for _ in range(16)]
        for number in range(10):
            await asyncio.sleep(2)
            to = second if number % 2 == 0 else first
            began = time.perf_counter()
            pointed.append((float("inf"), to))  # until it has returned, both may answer
            path = f"/api/v1/skills/{name.instance}/channels/prod"
            (await client.put(path, json={"digest": to})).raise_for_status()
            pointed.append((time.perf_counter(), to))
            took.append(time.perf_counter() - began)
        await asyncio.sleep(1)
        over.set()
        await asyncio.gather(*asking)
    return {
        "answered_count": answered,
        "failed_count": failed,
        "from_the_old_version_count": late,
        "promotion_median": statistics.median(took[::2]),
        "rollback_median": statistics.median(took[1::2]),
        "longest": max(took),
    }


async def overload(scene: ExperimentContext) -> Figures:
    """TTFT of a tenant within its share, while another asks for its share, and for ten times that."""
    other = "greedy"
    if other not in await asyncio.to_thread(scene.catalog.tenants):
        await asyncio.to_thread(scene.catalog.create_tenant, other)
    key = await asyncio.to_thread(issue_key, scene.catalog, other)
    seconds, modest = 60.0, 0.3 * scene.requests_per_s
    mine = _evenly(modest, seconds, adapters=4)

    async def beside(rate: float) -> list[float]:
        theirs = [each.model_copy(update={"adapter": None}) for each in _evenly(rate, seconds, adapters=1)]
        tasks = [scene.drive(mine, 4 * seconds)]
        if theirs:
            tasks.append(scene.drive(theirs, seconds, key=key))
        answers, *_ = await asyncio.gather(*tasks)
        return [answer.first_s for answer in answers if answer.tokens_s]

    found: Figures = {"requests_count": len(mine)}
    for name, rate in (("alone", 0.0), ("share", 0.5 * scene.requests_per_s), ("overload", 5 * scene.requests_per_s)):
        firsts = await beside(rate)
        found[f"{name}_p95"] = float(np.percentile(firsts, 95))
        found[f"{name}_unanswered_count"] = len(mine) - len(firsts)
    return found | {
        "ratio": found["overload_p95"] / found["alone_p95"],
        "ratio_to_beside_a_share": found["overload_p95"] / found["share_p95"],
    }


EXPERIMENTS: dict[str, Callable[[ExperimentContext], Coroutine[Any, Any, Figures]]] = {
    "warm beside cold": warm_beside_cold,
    "canary of 10 %": canary,
    "promotion under load": promotion,
    "overload by one tenant": overload,
}


def _evenly(rate: float, seconds: float, *, adapters: int) -> list[WorkloadRequest]:
    count = round(rate * seconds)
    return [
        WorkloadRequest(at_s=number * seconds / count, adapter=number % adapters, prompt=32, answer=16)
        for number in range(count)
    ]


async def _complete(client: httpx.AsyncClient, model: str, tokens: int) -> httpx.Response:
    body = {"model": model, "prompt": [1, 2, 3], "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    return await client.post("/v1/completions", json=body)


async def _together(do: Callable[[int], Awaitable[None]], count: int, at_once: int) -> None:
    numbers = iter(range(count))

    async def one() -> None:
        for number in numbers:
            await do(number)

    await asyncio.gather(*(one() for _ in range(at_once)))
