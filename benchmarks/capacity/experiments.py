"""Experiments on what Looper promises besides throughput, each on a running server.

An experiment is a function of ``ExperimentContext`` that returns metrics, in seconds unless the name of a metric says
otherwise. ``measurements`` runs all ``EXPERIMENTS``.
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

from looper.benchmarks.capacity.fixtures import CapacityFixtures, instance_name
from looper.benchmarks.capacity.load.clients import RequestResult, send_load
from looper.benchmarks.capacity.load.workload import WorkloadRequest
from looper.benchmarks.capacity.peers.peers import PeerEndpoint
from looper.platform.catalog import Catalog
from looper.platform.tenancy import issue_key

ExperimentMetrics = dict[str, float]
"""Metrics of an experiment, by name."""

FRESH_ADAPTERS = 100
"""Number of never requested adapters that the experiments need."""


@dataclass(frozen=True)
class ExperimentContext:
    """A running Looper, and adapters that were never requested."""

    endpoint: PeerEndpoint
    """Where Looper answers."""
    fixtures: CapacityFixtures
    """The adapters."""
    catalog: Catalog
    """The catalog of this Looper."""
    vocab_size: int
    """Size of the base model's vocabulary."""
    first_fresh: int
    """Number of the first adapter that was never requested."""
    sustained_rate: float
    """Requests per second that Looper answers under a full load."""

    async def send_load(
        self, requests: Sequence[WorkloadRequest], timeout_s: float, *, api_key: str | None = None
    ) -> list[RequestResult]:
        """Send requests to Looper.

        Args:
            requests: The requests.
            timeout_s: Seconds after which clients without a complete answer give up.
            api_key: API key of another tenant, whose requests are all for the base model.

        Returns:
            One result per request.
        """
        headers = {"authorization": f"Bearer {api_key}"} if api_key else self.endpoint.headers
        model_name = self.endpoint.model_name if api_key is None else lambda adapter: self.endpoint.base
        return await send_load(
            self.endpoint.url, headers, requests, model_name, vocab_size=self.vocab_size, timeout_s=timeout_s
        )

    def create_client(self) -> httpx.AsyncClient:
        """Return a new HTTP client with the API key and without a limit of connections."""
        limits = httpx.Limits(max_connections=None)
        return httpx.AsyncClient(base_url=self.endpoint.url, headers=self.endpoint.headers, timeout=120, limits=limits)


async def measure_warm_beside_cold(context: ExperimentContext) -> ExperimentMetrics:
    """Measure the inter-token latency of four warm streams: alone, and while a hundred cold adapters load.

    The hundred requests also have prompts that the engine reads. A run with the same requests for warm adapters shows
    what the prompts alone cost.

    Args:
        context: The running Looper.

    Returns:
        The 99th percentiles and their ratios.
    """
    streams = [
        WorkloadRequest(arrival_s=0.0, adapter=number, prompt_tokens=16, output_tokens=400) for number in range(4)
    ]
    await context.send_load([stream.model_copy(update={"output_tokens": 4}) for stream in streams], 60)
    quiet = await context.send_load(streams, 600)
    duration_s = max(result.finished_s or 0.0 for result in quiet)

    async def send_beside_streams(adapters: Sequence[int]) -> list[RequestResult]:
        # The requests are spread over the duration of the streams, so that streams run during all of the loading.
        requests = [
            WorkloadRequest(
                arrival_s=0.5 + number * 0.8 * duration_s / len(adapters),
                adapter=adapter,
                prompt_tokens=8,
                output_tokens=1,
            )
            for number, adapter in enumerate(adapters)
        ]
        return await context.send_load([*streams, *requests], 600)

    warm = await send_beside_streams([number % 4 for number in range(100)])
    cold = await send_beside_streams(range(context.first_fresh, context.first_fresh + 100))

    def itl_p99(results: Sequence[RequestResult]) -> float:
        return float(np.percentile([gap for result in results[:4] for gap in result.inter_token_s], 99))

    return {
        "cold_loaded_count": sum(result.tier == "store" for result in cold[4:]),
        "quiet_p99": itl_p99(quiet),
        "beside_warm_p99": itl_p99(warm),
        "beside_cold_p99": itl_p99(cold),
        "ratio": itl_p99(cold) / itl_p99(quiet),
        "ratio_to_beside_warm": itl_p99(cold) / itl_p99(warm),
    }


async def measure_canary_share(context: ExperimentContext) -> ExperimentMetrics:
    """Measure which share of 1,000 conversations a canary of 10 % answers. The standard deviation is 0.95 %.

    Args:
        context: The running Looper.

    Returns:
        The share, and the number of answers from neither version.
    """
    name = instance_name(context.first_fresh)
    canary, prod = await asyncio.to_thread(context.fixtures.ensure_second_version, context.catalog, context.first_fresh)
    await asyncio.to_thread(context.catalog.set_channel, name, "canary", canary, 0.1)
    counts: Counter[str] = Counter()
    async with context.create_client() as client:

        async def send(number: int) -> None:
            counts[(await _complete(client, str(name), 1, user=str(number))).headers["x-looper-version"]] += 1

        await _run_concurrently(send, 1000, 16)
    await asyncio.to_thread(context.catalog.delete_channel, name, "canary")
    return {"share": counts[canary] / counts.total(), "others_count": counts.total() - counts[canary] - counts[prod]}


async def measure_promotion(context: ExperimentContext) -> ExperimentMetrics:
    """Measure promotions and rollbacks of a skill, to which sixteen clients send requests without a pause.

    Args:
        context: The running Looper.

    Returns:
        Numbers of requests by outcome, and the seconds of promotions and rollbacks.
    """
    name = instance_name(context.first_fresh + 1)
    first, second = await asyncio.to_thread(
        context.fixtures.ensure_second_version, context.catalog, context.first_fresh + 1
    )
    await asyncio.to_thread(context.catalog.set_channel, name, "prod", first)
    seconds: list[float] = []
    stale = failed = answered = 0
    promotions: list[tuple[float, str]] = [(0.0, first)]
    stop = asyncio.Event()
    async with context.create_client() as client:

        async def send_until_stopped() -> None:
            nonlocal stale, failed, answered
            while not stop.is_set():
                started, expected = time.perf_counter(), promotions[-1]
                response = await _complete(client, str(name), 8)
                if response.status_code != 200:
                    failed += 1
                    continue
                answered += 1
                # The request started after the promotion had returned, and no other promotion started before it ended.
                if promotions[-1] == expected and started > expected[0]:
                    stale += response.headers["x-looper-version"] != expected[1]

        senders = [asyncio.create_task(send_until_stopped()) for _ in range(16)]
        for number in range(10):
            await asyncio.sleep(2)
            target = second if number % 2 == 0 else first
            started = time.perf_counter()
            promotions.append((float("inf"), target))  # until the promotion has returned, both versions may answer
            path = f"/api/v1/skills/{name.instance}/channels/prod"
            (await client.put(path, json={"digest": target})).raise_for_status()
            promotions.append((time.perf_counter(), target))
            seconds.append(time.perf_counter() - started)
        await asyncio.sleep(1)
        stop.set()
        await asyncio.gather(*senders)
    return {
        "answered_count": answered,
        "failed_count": failed,
        "from_the_old_version_count": stale,
        "promotion_median": statistics.median(seconds[::2]),
        "rollback_median": statistics.median(seconds[1::2]),
        "longest": max(seconds),
    }


async def measure_overload(context: ExperimentContext) -> ExperimentMetrics:
    """Measure the TTFT of a tenant within its share while another one requests its share, and ten times as much.

    Args:
        context: The running Looper.

    Returns:
        The 95th percentiles, the numbers of requests without a token, and the ratios.
    """
    other_tenant = "greedy"
    if other_tenant not in await asyncio.to_thread(context.catalog.list_tenants):
        await asyncio.to_thread(context.catalog.create_tenant, other_tenant)
    api_key = await asyncio.to_thread(issue_key, context.catalog, other_tenant)
    seconds, rate_within_share = 60.0, 0.3 * context.sustained_rate
    own_requests = _evenly_spaced(rate_within_share, seconds, adapters=4)

    async def measure_ttfts_s(other_rate: float) -> list[float]:
        other_requests = [
            request.model_copy(update={"adapter": None}) for request in _evenly_spaced(other_rate, seconds, adapters=1)
        ]
        tasks = [context.send_load(own_requests, 4 * seconds)]
        if other_requests:
            tasks.append(context.send_load(other_requests, seconds, api_key=api_key))
        results, *_ = await asyncio.gather(*tasks)
        return [result.ttft_s for result in results if result.token_times_s]

    metrics: ExperimentMetrics = {"requests_count": len(own_requests)}
    for name, rate in (
        ("alone", 0.0),
        ("share", 0.5 * context.sustained_rate),
        ("overload", 5 * context.sustained_rate),
    ):
        ttfts_s = await measure_ttfts_s(rate)
        metrics[f"{name}_p95"] = float(np.percentile(ttfts_s, 95))
        metrics[f"{name}_unanswered_count"] = len(own_requests) - len(ttfts_s)
    return metrics | {
        "ratio": metrics["overload_p95"] / metrics["alone_p95"],
        "ratio_to_beside_a_share": metrics["overload_p95"] / metrics["share_p95"],
    }


EXPERIMENTS: dict[str, Callable[[ExperimentContext], Coroutine[Any, Any, ExperimentMetrics]]] = {
    "warm beside cold": measure_warm_beside_cold,
    "canary of 10 %": measure_canary_share,
    "promotion under load": measure_promotion,
    "overload by one tenant": measure_overload,
}
"""All experiments, by their name in reports."""


def _evenly_spaced(rate: float, seconds: float, *, adapters: int) -> list[WorkloadRequest]:
    count = round(rate * seconds)
    return [
        WorkloadRequest(
            arrival_s=number * seconds / count, adapter=number % adapters, prompt_tokens=32, output_tokens=16
        )
        for number in range(count)
    ]


async def _complete(client: httpx.AsyncClient, model: str, tokens: int, user: str = "one") -> httpx.Response:
    body = {"model": model, "prompt": [1, 2, 3], "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    body["user"] = user
    return await client.post("/v1/completions", json=body)


async def _run_concurrently(task: Callable[[int], Awaitable[None]], count: int, max_concurrency: int) -> None:
    numbers = iter(range(count))

    async def run_next_tasks() -> None:
        for number in numbers:
            await task(number)

    await asyncio.gather(*(run_next_tasks() for _ in range(max_concurrency)))
