"""Several gateways on Ray Serve act as one."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
from prometheus_client.parser import text_string_to_metric_families

from looper.platform.catalog import Quota
from looper.platform.domain.names import InstanceName
from looper.platform.tenancy import issue_key
from tests.serve.live import HELLO, LiveServer, find_processes


def answered_requests(live: LiveServer) -> dict[str, float]:
    """Return the number of requests that each gateway has answered, by its label."""
    families = text_string_to_metric_families(live.read_metrics())
    samples = [sample for family in families for sample in family.samples if sample.name == "looper_requests_total"]
    counts: dict[str, float] = {}
    for sample in samples:
        counts[sample.labels["gateway"]] = counts.get(sample.labels["gateway"], 0) + sample.value
    return counts


def send_together(live: LiveServer, key: str, count: int, text_of: Callable[[int], str]) -> list[httpx.Response]:
    """Send chat requests at the same time, each on a connection of its own."""

    def send(number: int) -> httpx.Response:
        body = {"model": "shares/desk", "max_tokens": 1, "messages": [{**HELLO[0], "content": text_of(number)}]}
        headers = {"authorization": f"Bearer {key}"}
        return httpx.post(f"{live.url}/v1/chat/completions", json=body, headers=headers, timeout=120)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(send, range(count)))


def test_limits_canaries_and_counts_hold_over_two_gateways(live: LiveServer) -> None:
    assert len(find_processes("ray::ServeReplica:looper:gateway")) == live.settings.serve.gateways == 2
    live.tenant("shares")
    key, desk = issue_key(live.catalog, "shares"), InstanceName("shares", "desk")
    canary, prod = (live.publish(desk, number) for number in (130, 131))
    live.catalog.set_channel(desk, "canary", canary, 0.5)

    # Every conversation has its version, whichever gateway it comes to.
    before = answered_requests(live)
    turns = [send_together(live, key, 16, lambda number: f"Room {number}.") for _ in range(3)]
    assert [response.status_code for turn in turns for response in turn] == [200] * 48
    versions = [[response.headers["x-looper-version"] for response in turn] for turn in turns]
    assert versions[0] == versions[1] == versions[2]
    assert set(versions[0]) == {canary, prod}
    after = answered_requests(live)
    added = {gateway: after[gateway] - before.get(gateway, 0) for gateway in after}
    assert sum(added.values()) == 48
    assert sum(count > 0 for count in added.values()) == 2
    traffic = httpx.get(f"{live.url}/api/v1/skills/desk/traffic", headers={"authorization": f"Bearer {key}"}).json()
    assert {digest: stats["requests"] for digest, stats in traffic.items()} == {
        digest: 3 * versions[0].count(digest) for digest in (canary, prod)
    }

    live.catalog.set_quota("shares", Quota(requests_per_minute=12))
    started_at = time.monotonic()
    statuses = [response.status_code for response in send_together(live, key, 24, lambda _: "Hello.")]
    elapsed_s = time.monotonic() - started_at
    assert set(statuses) == {200, 429}
    assert 12 <= statuses.count(200) <= 12 + elapsed_s * 12 / 60 + 1
