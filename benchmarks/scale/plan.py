"""Which clusters and loads ``looper bench scale`` simulates."""

from looper.benchmarks.scale.simulation.engine import EngineProfile
from looper.benchmarks.scale.simulation.scenarios import ScaleScenario
from looper.benchmarks.scale.simulation.workload import ScaleLoad

RATE_PER_REPLICA = 3.0
"""Requests per second and replica: about 0.6 of what the measured engine answers."""

PROMOTIONS_PER_REPLICA = 1 / 40
"""Promotions per second and replica."""


def plan_scenarios(profile: EngineProfile, *, quick: bool) -> list[ScaleScenario]:
    """Return the scenarios.

    Args:
        profile: What one engine can do.
        quick: Only small ones, as a check.

    Returns:
        The scenarios. Those that are compared differ in one thing.
    """
    size = 20 if quick else 64
    medium = ScaleScenario(
        name="medium",
        profile=profile,
        replicas=size,
        gateways=10,
        warm_adapters=50 * size,
        warm_up_s=10.0,
        load=ScaleLoad(adapters=1000 * size, tenants=10 * size, rate=RATE_PER_REPLICA * size, seconds=30),
    )
    large = [] if quick else [_large(profile, 1000, 20, 8.0), _large(profile, 4000, 50, 4.0)]
    return [
        *large,
        *(_vary(medium, f"{count} gateways", gateways=count) for count in ((1, 10) if quick else (1, 10, 50, 100))),
        *(_skewed(medium, alpha) for alpha in (0.7, 1.3)),
        _vary(medium, "promotions", promotions_per_s=size * PROMOTIONS_PER_REPLICA),
        _vary(
            medium, "promotions, not prefetched", promotions_per_s=size * PROMOTIONS_PER_REPLICA, polls_promotions=False
        ),
        _vary(medium, "a node dies", lost_node_at_s=20.0, engine_start_s=10.0),
        _vary(medium, "a zone dies", lost_zone_at_s=20.0, engine_start_s=10.0),
        _vary(medium, "rolling restart", restarts_per_s=size / 50, engine_start_s=1.0),
        _flooded(medium, "one tenant floods", 0.5),
        _a_day(profile, size // 4, 120.0 if quick else 240.0),
    ]


def _vary(scenario: ScaleScenario, name: str, **changes: object) -> ScaleScenario:
    return scenario.model_copy(update={"name": name, **changes})


def _skewed(scenario: ScaleScenario, alpha: float) -> ScaleScenario:
    return _vary(scenario, f"exponent {alpha}", load=scenario.load.model_copy(update={"alpha": alpha}))


def _flooded(scenario: ScaleScenario, name: str, share: float) -> ScaleScenario:
    return _vary(scenario, name, load=scenario.load.model_copy(update={"flood_share": share}))


def _large(profile: EngineProfile, replicas: int, gateways: int, seconds: float) -> ScaleScenario:
    return ScaleScenario(
        name=f"{replicas} replicas",
        profile=profile,
        replicas=replicas,
        gateways=gateways,
        warm_adapters=30_000,
        warm_up_s=seconds / 2,
        load=ScaleLoad(adapters=1_000_000, tenants=10_000, rate=RATE_PER_REPLICA * replicas, seconds=seconds),
    )


def _a_day(profile: EngineProfile, replicas: int, day_s: float) -> ScaleScenario:
    """Autoscale over a day that is much shorter than a real one, so that the load rises much faster."""
    return ScaleScenario(
        name="a day",
        profile=profile,
        replicas=max(1, replicas // 3),
        gateways=4,
        warm_adapters=20 * replicas,
        max_replicas=4 * replicas,
        engine_start_s=20.0,
        load=ScaleLoad(
            adapters=1000 * replicas,
            tenants=20 * replicas,
            rate=RATE_PER_REPLICA * replicas,
            seconds=day_s,
            day_s=day_s,
        ),
    )
