"""The simulation keeps what must be kept, and shows it if a policy of ``serve`` is broken on purpose."""

from collections import Counter
from collections.abc import Iterator
from itertools import chain

import numpy as np
import pytest

from looper.benchmarks.capacity.load.workload import WorkloadRequest
from looper.benchmarks.capacity.simulation.simulator import simulate
from looper.benchmarks.scale.bench import MEASURED_ENGINE
from looper.benchmarks.scale.costs.routing import measure_moves
from looper.benchmarks.scale.plan import plan_scenarios
from looper.benchmarks.scale.simulation.gateway import RequestOutcome
from looper.benchmarks.scale.simulation.scenarios import ScaleScenario, ScenarioResult
from looper.benchmarks.scale.simulation.simulate import simulate_scenario
from looper.benchmarks.scale.simulation.workload import Arrival, ScaleLoad, daily_factor, generate_arrivals
from looper.serve.engine.admission import AdmissionQueue
from looper.serve.gateway.adapter_prefetcher import AdapterPrefetcher
from looper.serve.routing.placement import Placement

SMALL = ScaleScenario(
    name="small",
    profile=MEASURED_ENGINE,
    replicas=16,
    gateways=3,
    replicas_per_node=4,
    warm_adapters=300,
    load=ScaleLoad(adapters=2000, tenants=40, rate=30.0, seconds=20.0),
    engine_start_s=4.0,
)


def vary(**changes: object) -> ScaleScenario:
    return SMALL.model_copy(update=changes)


def run(scenario: ScaleScenario) -> ScenarioResult:
    return simulate_scenario(scenario)[0]


def test_the_same_seed_gives_the_same_result() -> None:
    scenario = vary(load=SMALL.load.model_copy(update={"seconds": 6.0}), promotions_per_s=2.0)
    first, second = run(scenario), run(scenario)
    assert first == second
    assert run(scenario.model_copy(update={"load": scenario.load.model_copy(update={"seed": 1})})) != first


def test_every_request_is_answered_refused_or_lost_with_an_engine() -> None:
    scenario = vary(lost_node_at_s=6.0, lost_zone_at_s=12.0, restarts_per_s=0.5)
    result, outcomes = simulate_scenario(scenario)
    arrivals = list(generate_arrivals(scenario.load))
    assert result.requests == len(arrivals) == len(outcomes)
    assert result.answered + result.refused + result.lost == result.requests
    assert Counter(outcome.arrival.at_s for outcome in outcomes) == Counter(arrival.at_s for arrival in arrivals)
    assert result.lost > 0, "requests that had begun died with their node"
    assert result.lost < 100
    for outcome in outcomes:
        if outcome.result == "answered":
            assert outcome.tokens == outcome.arrival.output_tokens
            assert outcome.ttft_s is not None
            assert outcome.ttft_s > 0


def test_without_failures_nothing_is_lost_and_the_load_of_a_replica_is_bounded() -> None:
    result = run(SMALL)
    assert (result.lost, result.refused) == (0, 0)
    assert result.memory_share + result.disk_share + result.store_share == pytest.approx(1, abs=1e-3)
    assert result.memory_share > 0.5


def test_a_replica_that_comes_takes_only_its_share_of_the_versions() -> None:
    moved, least = (row.value for row in measure_moves(50, digests=5000))
    assert moved == pytest.approx(least, rel=0.3)


def test_an_adapter_that_is_requested_again_is_in_memory_unless_placement_is_broken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good = run(SMALL)
    rank = Placement.rank
    calls = iter(range(10**9))

    def rank_differently_each_time(placement: Placement, digest: str) -> Iterator[str]:
        return rank(placement, f"{digest}{next(calls)}")

    monkeypatch.setattr(Placement, "rank", rank_differently_each_time)
    broken = run(SMALL)
    assert broken.memory_share < good.memory_share - 0.2
    assert broken.downloads_per_s > 1.5 * good.downloads_per_s


def test_promoted_versions_are_loaded_before_they_are_asked_for_unless_nobody_prefetches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scenario = vary(promotions_per_s=4.0, load=SMALL.load.model_copy(update={"alpha": 0.6}))
    good = run(scenario)

    async def prefetch_nothing(prefetcher: AdapterPrefetcher) -> None:
        pass

    monkeypatch.setattr(AdapterPrefetcher, "prefetch_promoted", prefetch_nothing)
    broken = run(scenario)
    assert good.cold_after_promotion is not None
    assert broken.cold_after_promotion is not None
    assert good.cold_after_promotion < 0.4
    assert broken.cold_after_promotion > good.cold_after_promotion + 0.3
    assert good.prefetches_per_s > broken.prefetches_per_s


def ttfts_s(outcomes: list[RequestOutcome], tenant: str) -> list[float]:
    return sorted(outcome.ttft_s for outcome in outcomes if outcome.tenant == tenant and outcome.ttft_s is not None)


def test_a_flood_of_one_tenant_does_not_delay_another_unless_the_queue_is_unfair(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One engine, two tenants with one adapter each, and more requests of the first than the engine can answer."""
    load = ScaleLoad(adapters=2, tenants=2, rate=1.5, seconds=30.0, alpha=0.0, flood_share=0.9, output_tokens=(24, 24))
    scenario = vary(replicas=1, gateways=1, warm_adapters=2, load=load)
    _, fair = simulate_scenario(scenario)
    flooded, other = ttfts_s(fair, "tenant-0"), ttfts_s(fair, "tenant-1")
    assert other[len(other) // 2] < flooded[len(flooded) // 2] / 4
    admit = AdmissionQueue.admit
    monkeypatch.setattr(AdmissionQueue, "admit", lambda queue, _, *args, **more: admit(queue, "all", *args, **more))
    _, unfair = simulate_scenario(scenario)
    assert ttfts_s(unfair, "tenant-1")[len(other) // 2] > 2 * other[len(other) // 2]


def test_replicas_follow_the_load_of_a_day_and_never_exceed_the_maximum() -> None:
    load = SMALL.load.model_copy(update={"seconds": 200.0, "day_s": 200.0, "rate": 18.0})
    result = run(vary(replicas=2, max_replicas=8, load=load))
    counts = [interval.replicas for interval in result.intervals]
    assert max(counts) > 2
    assert max(counts) <= 8
    assert counts[-1] < max(counts), "some were taken away in the evening"
    assert result.lost == 0, "a replica is drained before it ends"


def test_arrivals_have_the_rate_the_skew_and_the_day_that_were_asked_for() -> None:
    load = ScaleLoad(adapters=1000, tenants=1000, rate=200.0, seconds=100.0)
    arrivals: list[Arrival] = list(generate_arrivals(load))
    assert len(arrivals) == pytest.approx(20_000, rel=0.25)
    assert [arrival.at_s for arrival in arrivals] == sorted(arrival.at_s for arrival in arrivals)
    counts = Counter(arrival.adapter for arrival in arrivals)
    assert counts[0] > 3 * counts[9] > 0
    day = ScaleLoad(adapters=1, tenants=1, rate=1.0, seconds=1.0, day_s=24.0)
    hours = [daily_factor(day, hour) for hour in range(24)]
    assert min(hours) == hours[0] < 0.4
    assert max(hours) == hours[12]
    assert sum(hours) / 24 == pytest.approx(1)


def test_plans_differ_in_name_and_quick_ones_are_small() -> None:
    for quick in (True, False):
        names = [scenario.name for scenario in plan_scenarios(MEASURED_ENGINE, quick=quick)]
        assert len(set(names)) == len(names)
    assert max(scenario.replicas for scenario in plan_scenarios(MEASURED_ENGINE, quick=True)) <= 100
    full = plan_scenarios(MEASURED_ENGINE, quick=False)
    assert {1000, 4000} <= set(chain.from_iterable((scenario.replicas,) for scenario in full))
    assert max(scenario.load.adapters for scenario in full) == 1_000_000


def test_the_engine_agrees_with_the_one_that_is_simulated_step_by_step() -> None:
    """``benchmarks/capacity/simulation`` simulates each step, and its errors against measurements are published."""
    load = ScaleLoad(adapters=20, tenants=1, rate=6.0, seconds=40.0)
    scenario = vary(replicas=2, gateways=1, warm_adapters=20, load=load)
    result, _ = simulate_scenario(scenario)
    exact = simulate(
        [
            WorkloadRequest(
                arrival_s=arrival.at_s,
                adapter=arrival.adapter,
                prompt_tokens=arrival.prompt_tokens,
                output_tokens=arrival.output_tokens,
            )
            for arrival in generate_arrivals(load)
        ],
        MEASURED_ENGINE.size.model_copy(update={"replicas": 2}),
        MEASURED_ENGINE.costs,
        timeout_s=1000,
        prewarmed=range(20),
    )
    assert result.answered == sum(answer.finished_s is not None for answer in exact)
    p50_s, p95_s = np.percentile([answer.ttft_s for answer in exact], (50, 95))
    assert result.ttft_p50_s == pytest.approx(p50_s, rel=0.35)
    assert result.ttft_p95_s == pytest.approx(p95_s, rel=0.5), "prompts of others are not in a step"
