"""What is simulated: the settings of a scenario, and what comes of it."""

from pydantic import BaseModel, ConfigDict, Field

from looper.benchmarks.scale.simulation.engine import EngineProfile
from looper.benchmarks.scale.simulation.workload import ScaleLoad


class ScaleScenario(BaseModel):
    """One simulated cluster under one load, with what happens to it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="name of the scenario")
    load: ScaleLoad = Field(description="the requests")
    profile: EngineProfile = Field(description="what one engine can do")
    replicas: int = Field(gt=0, description="number of replicas at the beginning")
    gateways: int = Field(gt=0, description="number of gateways")
    replicas_per_node: int = Field(8, gt=0, description="replicas that die with their node")
    zones: int = Field(3, gt=0, description="number of zones, over which the nodes are spread")
    warm_adapters: int = Field(0, ge=0, description="number of the most popular adapters that are loaded before")
    warm_up_s: float = Field(0.0, ge=0, description="requests that arrive earlier do not count, in seconds")
    max_popular: int = Field(16, ge=0, description="number of popular adapters that each gateway prefetches")
    polls_promotions: bool = Field(True, description="whether gateways prefetch promoted versions")
    promotions_per_s: float = Field(0.0, ge=0, description="versions that are promoted per second, by popularity")
    lost_node_at_s: float | None = Field(None, description="time at which a node dies, in seconds")
    lost_zone_at_s: float | None = Field(None, description="time at which a zone dies, in seconds")
    restarts_per_s: float = Field(0.0, ge=0, description="replicas that are drained and started anew per second")
    max_replicas: int | None = Field(None, description="autoscale up to this number; None: no autoscaling")
    engine_start_s: float = Field(60.0, ge=0, description="time in which a replica starts, in seconds")
    detection_s: float = Field(1.0, ge=0, description="time after which gateways are told of a change, in seconds")


class Interval(BaseModel):
    """What happened within a few seconds."""

    model_config = ConfigDict(frozen=True)

    begin_s: float
    """Beginning of the interval, in seconds."""
    requests: int
    """Requests that arrived in it."""
    lost: int
    """Those of them whose engine died."""
    cold: int
    """Those of them whose adapter was not in memory."""
    ttft_p95_s: float | None
    """Their 95th percentile of the time to the first token, in seconds."""
    replicas: int
    """Replicas that ran at its beginning."""


class ScenarioResult(BaseModel):
    """What came of a scenario. Requests of the warm-up are not in it."""

    model_config = ConfigDict(frozen=True)

    scenario: str
    """Name of the scenario."""
    replicas: int
    """Number of replicas at the beginning."""
    gateways: int
    """Number of gateways."""
    adapters: int
    """Number of adapters."""
    requests: int
    """Requests that arrived."""
    answered: int
    """Requests with a complete answer."""
    refused: int
    """Requests that were told to come back later."""
    lost: int
    """Requests whose engine died, with an error that says so."""
    requests_per_s: float
    """Answers per second."""
    ttft_p50_s: float
    """Median time to the first token, in seconds."""
    ttft_p95_s: float
    """Its 95th percentile."""
    ttft_p99_s: float
    """Its 99th percentile."""
    memory_share: float
    """Share of the answers whose adapter was in memory."""
    disk_share: float
    """Share of the answers whose adapter was on the replica's disk."""
    store_share: float
    """Share of the answers whose adapter came from the object store."""
    cold_after_promotion: float | None
    """Share of the first requests after a promotion whose adapter was not in memory; None without promotions."""
    downloads_per_s: float
    """Adapters that were downloaded per second, prefetches included."""
    prefetches_per_s: float
    """Prefetches that all gateways sent per second."""
    choices_per_s: float
    """Choices of a replica per second, of all gateways."""
    polled_rows_per_s: float
    """Rows per second that all gateways' polls for promotions returned."""
    max_over_mean_load: float
    """Load of the busiest replica over the mean, median of all intervals."""
    intervals: tuple[Interval, ...]
    """What happened over time."""
