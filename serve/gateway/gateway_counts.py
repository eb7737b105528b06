"""What the gateways have counted: metrics, and traffic of canaries. A gateway that is asked asks the others.

Ray Serve's proxy sends each request to any gateway, so a gateway's own counts alone would be a random part.
"""

import logging
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry
from typing_extensions import override

from looper.platform.api.models import VersionTraffic
from looper.platform.domain.names import InstanceName
from looper.serve.gateway.metrics import GatewayMetrics
from looper.serve.gateway.request_recorder import TrafficStats, VersionStats

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GatewayCounts:
    """What one gateway has counted since it started."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    """Label of its metrics, if there are several gateways."""
    metrics: GatewayMetrics = field(default_factory=GatewayMetrics)
    """Its metrics."""
    traffic: TrafficStats = field(default_factory=TrafficStats)
    """Its statistics of skills with a canary."""

    def collect_metrics(self) -> tuple[str, list[Metric]]:
        """Return the id of the gateway, and its metrics."""
        return self.id, list(self.metrics.registry.collect())

    def collect_traffic(self, instance: InstanceName) -> Mapping[str, VersionStats]:
        """Return the statistics of the versions of ``instance``, by digest."""
        return self.traffic.versions_of(instance)


class GatewayPeers(Protocol):
    """All gateways of the cluster. ``deployment/gateway_peers.py`` implements it with Ray Serve."""

    async def ask(self, method: str, *args: Any) -> list[Any]:
        """Call a method of ``GatewayCounts`` at all gateways.

        Args:
            method: Name of the method.
            *args: Its arguments.

        Returns:
            Results of the gateways that responded, the one that asks included.

        Raises:
            PeersUnavailable: Ray Serve does not respond.
        """
        ...


class PeersUnavailable(Exception):
    """The other gateways cannot be asked now."""


async def export_metrics(counts: GatewayCounts, peers: GatewayPeers | None) -> bytes:
    """Return the metrics of all gateways in Prometheus's format.

    Args:
        counts: Counts of this gateway.
        peers: All gateways. None: there is only this one.

    Returns:
        Text. With several gateways, each sample has the label ``gateway``, so that a gateway that starts again is one
        counter that starts again, and not a sum that falls.
    """
    if peers is None:
        return generate_latest(counts.metrics.registry)
    registry = CollectorRegistry()
    registry.register(_MergedMetrics(await _ask(peers, "collect_metrics", default=counts.collect_metrics())))
    return generate_latest(registry)


async def summarize_traffic(
    counts: GatewayCounts, peers: GatewayPeers | None, instance: InstanceName
) -> dict[str, VersionTraffic]:
    """Return what the versions of a skill with a canary have answered at all gateways.

    Args:
        counts: Counts of this gateway.
        peers: All gateways. None: there is only this one.
        instance: The skill.

    Returns:
        Summaries by digest. Empty if no request of the skill was split since the gateways started.
    """
    mine = counts.collect_traffic(instance)
    reports = [mine] if peers is None else await _ask(peers, "collect_traffic", instance, default=mine)
    total: dict[str, VersionStats] = {}
    for report in reports:
        for digest, stats in report.items():
            total.setdefault(digest, VersionStats()).add(stats)
    return {digest: stats.summarize() for digest, stats in total.items()}


async def _ask(peers: GatewayPeers, method: str, *args: Any, default: Any) -> list[Any]:
    try:
        return await peers.ask(method, *args)
    except PeersUnavailable as error:
        log.warning("the other gateways cannot be asked for their counts: %s", error)
        return [default]


class _MergedMetrics(Collector):
    def __init__(self, reports: Iterable[tuple[str, list[Metric]]]) -> None:
        self._reports = reports

    @override
    def collect(self) -> Iterable[Metric]:
        merged: dict[str, Metric] = {}
        for gateway, metrics in self._reports:
            for metric in metrics:
                target = merged.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                for sample in metric.samples:
                    target.samples.append(sample._replace(labels={"gateway": gateway, **sample.labels}))
        return merged.values()
