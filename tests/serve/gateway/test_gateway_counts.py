"""Counts of several gateways are put together, wherever they are asked for."""

import asyncio
import pickle
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from looper.platform.domain.names import InstanceName
from looper.serve.gateway.gateway_counts import GatewayCounts, PeersUnavailable, export_metrics, summarize_traffic

DESK = InstanceName("acme", "desk")


class Peers:
    """Gateways in this process, whose results travel as between processes."""

    def __init__(self, *gateways: GatewayCounts) -> None:
        self._gateways = gateways

    async def ask(self, method: str, *args: Any) -> list[Any]:
        return [pickle.loads(pickle.dumps(getattr(gateway, method)(*args))) for gateway in self._gateways]  # noqa: S301  # its own


class LostPeers:
    async def ask(self, method: str, *args: Any) -> list[Any]:
        raise PeersUnavailable("Ray Serve is restarting")


def gateway(tokens: int) -> GatewayCounts:
    counts = GatewayCounts()
    counts.metrics.tokens.labels("prod", "read").inc(tokens)
    counts.metrics.queue_wait_s.observe(0.5)
    stats = counts.traffic.stats_of(DESK, "a" * 64)
    stats.requests, stats.failed, stats.tokens = 2, 1, tokens
    stats.seconds.append(float(tokens))
    return counts


def tokens_by_gateway(text: bytes) -> dict[str, float]:
    families = text_string_to_metric_families(text.decode())
    samples = [sample for family in families for sample in family.samples if sample.name == "looper_tokens_total"]
    return {sample.labels.get("gateway", ""): sample.value for sample in samples}


def test_metrics_of_all_gateways_are_told_apart_by_a_label() -> None:
    one, two = gateway(5), gateway(7)
    text = asyncio.run(export_metrics(one, Peers(one, two)))
    assert tokens_by_gateway(text) == {one.id: 5, two.id: 7}
    assert text.count(b"# TYPE looper_tokens_total counter") == 1
    assert text.count(b"looper_queue_seconds_count{") == 2


def test_traffic_of_all_gateways_is_added_up() -> None:
    one, two = gateway(5), gateway(7)
    traffic = asyncio.run(summarize_traffic(two, Peers(one, two), DESK))["a" * 64]
    assert (traffic.requests, traffic.failed, traffic.tokens) == (4, 2, 12)
    assert traffic.seconds is not None
    assert 5 <= traffic.seconds["p50"] <= 7


def test_a_gateway_that_cannot_ask_the_others_tells_its_own_counts() -> None:
    one = gateway(5)
    assert tokens_by_gateway(asyncio.run(export_metrics(one, LostPeers()))) == {one.id: 5}
    assert asyncio.run(summarize_traffic(one, LostPeers(), DESK))["a" * 64].tokens == 5
