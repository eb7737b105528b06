"""Run a scenario. ``benchmarks/scale/bench`` and the tests call ``simulate_scenario``."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from math import inf

import numpy as np

from looper.benchmarks.capacity.load.workload import adapter_popularity
from looper.benchmarks.scale.simulation.catalog import SimulatedCatalog
from looper.benchmarks.scale.simulation.cluster import SimulatedCluster
from looper.benchmarks.scale.simulation.gateway import RequestOutcome
from looper.benchmarks.scale.simulation.scenarios import Interval, ScaleScenario, ScenarioResult
from looper.benchmarks.scale.simulation.virtual_time import run_virtual
from looper.benchmarks.scale.simulation.workload import Arrival, generate_arrivals
from looper.serve.gateway.adapter_prefetcher import POLL_INTERVAL_S, REFRESH_INTERVAL_S
from looper.serve.gateway.catalog_poller import run_periodically

INTERVAL_S = 2.0
"""Length of the intervals of a result, in seconds."""

PATIENCE_S = 600.0
"""Time after the last arrival at which the simulation ends, in seconds. Unanswered requests are an error by then."""


def simulate_scenario(
    scenario: ScaleScenario, notify: Callable[[float], None] = lambda _: None
) -> tuple[ScenarioResult, list[RequestOutcome]]:
    """Run a scenario.

    Args:
        scenario: The scenario. The same one always gives the same result.
        notify: Called with the simulated time in seconds, every few seconds.

    Returns:
        The result, and what became of each request after the warm-up.

    Raises:
        TimeoutError: A request was not answered.
    """
    return run_virtual(_ScenarioRun(scenario, notify).run())


class _ScenarioRun:
    def __init__(self, scenario: ScaleScenario, notify: Callable[[float], None]) -> None:
        self._scenario = scenario
        self._notify = notify
        self._outcomes: list[RequestOutcome] = []
        self._running: list[int] = []  # number of replicas, by interval
        self._imbalance: list[float] = []
        self._first_after: dict[int, float] = {}  # time of the last promotion, by adapter without a request since
        self._cold_first = Counter[bool]()
        self._random = np.random.default_rng(scenario.load.seed + 1)

    async def run(self) -> tuple[ScenarioResult, list[RequestOutcome]]:
        scenario, loop = self._scenario, asyncio.get_running_loop()
        self._catalog = SimulatedCatalog()
        self._cluster = SimulatedCluster(scenario, self._catalog)
        await self._cluster.warm_up()
        start_s = loop.time()
        assert start_s == 0.0
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as requests:
            background = self._background()
            for gateway in self._cluster.gateways:
                if scenario.polls_promotions:
                    await stack.enter_async_context(
                        run_periodically(POLL_INTERVAL_S, gateway.prefetcher.prefetch_promoted)
                    )
                if scenario.max_popular:
                    await stack.enter_async_context(
                        run_periodically(REFRESH_INTERVAL_S, gateway.prefetcher.prefetch_popular)
                    )
            for number, arrival in enumerate(generate_arrivals(scenario.load)):
                if arrival.at_s > loop.time():
                    await asyncio.sleep(arrival.at_s - loop.time())
                requests.create_task(self._serve(number, arrival))
            begun_s = loop.time()
            while len(self._outcomes) <= number:
                if loop.time() > begun_s + PATIENCE_S:
                    raise TimeoutError(f"{number + 1 - len(self._outcomes)} requests were not answered")
                await asyncio.sleep(INTERVAL_S)
            for task in background:
                task.cancel()
        counted = [outcome for outcome in self._outcomes if outcome.arrival.at_s >= scenario.warm_up_s]
        return self._summarize(counted), counted

    def _background(self) -> list[asyncio.Task[None]]:
        scenario, cluster = self._scenario, self._cluster
        actions = [self._observe()]
        if scenario.promotions_per_s:
            actions.append(self._promote())
        if scenario.restarts_per_s:
            actions.append(self._after(scenario.warm_up_s, cluster.restart_in_turn))
        if scenario.max_replicas is not None:
            actions.append(cluster.autoscale())
        loop = asyncio.get_running_loop()
        for at_s, action in (
            (scenario.lost_node_at_s, cluster.lose_node),
            (scenario.lost_zone_at_s, cluster.lose_zone),
        ):
            if at_s is not None:
                loop.call_at(at_s, action)
        return [asyncio.create_task(action) for action in actions]

    async def _after(self, seconds: float, action: Callable[[], Coroutine[None, None, None]]) -> None:
        await asyncio.sleep(seconds)
        await action()

    async def _serve(self, number: int, arrival: Arrival) -> None:
        gateways, adapter = self._cluster.gateways, arrival.adapter
        tenant = f"tenant-{adapter % self._scenario.load.tenants}"
        gateway = gateways[int(self._random.integers(len(gateways)))]
        is_first = self._first_after.pop(adapter, None)
        outcome = await gateway.serve(arrival, tenant, self._catalog.resolve(adapter), number)
        if is_first is not None and outcome.tier is not None and arrival.at_s >= self._scenario.warm_up_s:
            self._cold_first[outcome.tier != "memory"] += 1
        self._outcomes.append(outcome)

    async def _promote(self) -> None:
        load = self._scenario.load
        cumulative = np.cumsum(adapter_popularity(load.adapters, load.alpha))
        while True:
            await asyncio.sleep(float(self._random.exponential(1 / self._scenario.promotions_per_s)))
            adapter = min(int(np.searchsorted(cumulative, self._random.random())), load.adapters - 1)
            self._catalog.promote(adapter)
            self._first_after[adapter] = asyncio.get_running_loop().time()

    async def _observe(self) -> None:
        while True:
            self._running.append(len(self._cluster.running))
            loads = [replica.ongoing for replica in self._cluster.running.values()]
            is_counted = self._scenario.warm_up_s <= asyncio.get_running_loop().time() < self._scenario.load.seconds
            if is_counted and any(loads):
                self._imbalance.append(max(loads) * len(loads) / sum(loads))
            self._notify(asyncio.get_running_loop().time())
            await asyncio.sleep(INTERVAL_S)

    def _summarize(self, outcomes: Sequence[RequestOutcome]) -> ScenarioResult:
        scenario, cluster = self._scenario, self._cluster
        counted_s, seconds = scenario.load.seconds - scenario.warm_up_s, scenario.load.seconds
        results = Counter(outcome.result for outcome in outcomes)
        tiers = Counter(outcome.tier for outcome in outcomes if outcome.tier is not None)
        ttfts_s = [outcome.ttft_s for outcome in outcomes if outcome.ttft_s is not None] or [inf]
        p50, p95, p99 = (round(float(value), 4) for value in np.percentile(ttfts_s, (50, 95, 99)))
        firsts, found = self._cold_first.total(), max(1, tiers.total())
        return ScenarioResult(
            scenario=scenario.name,
            replicas=scenario.replicas,
            gateways=scenario.gateways,
            adapters=scenario.load.adapters,
            requests=len(outcomes),
            answered=results["answered"],
            refused=results["refused"],
            lost=results["lost"],
            requests_per_s=round(results["answered"] / counted_s, 2),
            ttft_p50_s=p50,
            ttft_p95_s=p95,
            ttft_p99_s=p99,
            memory_share=round(tiers["memory"] / found, 4),
            disk_share=round(tiers["disk"] / found, 4),
            store_share=round(tiers["store"] / found, 4),
            cold_after_promotion=round(self._cold_first[True] / firsts, 4) if firsts else None,
            downloads_per_s=round(sum(replica.downloads for replica in cluster.replicas.values()) / seconds, 2),
            prefetches_per_s=round(sum(gateway.prefetches for gateway in cluster.gateways) / seconds, 2),
            choices_per_s=round(sum(gateway.choices for gateway in cluster.gateways) / seconds, 2),
            polled_rows_per_s=round(self._catalog.polled_rows / seconds, 2),
            max_over_mean_load=round(float(np.median(self._imbalance or [1.0])), 2),
            intervals=self._intervals(outcomes),
        )

    def _intervals(self, outcomes: Sequence[RequestOutcome]) -> tuple[Interval, ...]:
        by_number: dict[int, list[RequestOutcome]] = {}
        for outcome in outcomes:
            by_number.setdefault(int(outcome.arrival.at_s // INTERVAL_S), []).append(outcome)
        intervals = []
        for number, found in sorted(by_number.items()):
            ttfts_s = [outcome.ttft_s for outcome in found if outcome.ttft_s is not None]
            intervals.append(
                Interval(
                    begin_s=number * INTERVAL_S,
                    requests=len(found),
                    lost=sum(outcome.result == "lost" for outcome in found),
                    cold=sum(outcome.tier in ("disk", "store") for outcome in found),
                    ttft_p95_s=round(float(np.percentile(ttfts_s, 95)), 4) if ttfts_s else None,
                    replicas=self._running[min(number, len(self._running) - 1)],
                )
            )
        return tuple(intervals)
