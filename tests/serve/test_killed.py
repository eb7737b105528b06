"""Processes are killed under load: every request gets a response or an error, and none hangs."""

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx
import pytest

from looper.platform.domain.names import InstanceName
from tests.serve.live import LiveServer, find_processes

ALLOWED_OUTCOMES = {
    "complete",
    "streamed",
    "interrupted",
    "503 engine_gone",
    "503 engine_died",
    "503 gateway_gone",
    "connection lost",
}
"""How a request may end. An interrupted stream has an error as its last event."""

TIMEOUT_S = 90
"""A request that takes longer counts as hanging. An engine of the tiny model starts in about 30 s."""


def kill_replicas(deployment: str) -> int:
    """Kill the replicas of a deployment; return how many there were."""
    victims = find_processes(f"ServeReplica:looper:{deployment}")
    for victim in victims:
        victim.kill()
    return len(victims)


def run_load(live: LiveServer, tenant: str, kill: Callable[[], int], seconds: float) -> Counter[str]:
    """Count the outcomes of requests of four clients. ``kill`` is called after five seconds."""
    key = live.tenant(tenant).api_key
    live.publish(InstanceName(tenant, "agent"), 100)
    stop, counts = threading.Event(), Counter[str]()
    headers = {"authorization": f"Bearer {key}"}

    def send_requests(stream: bool) -> None:
        body = {"model": f"{tenant}/agent", "prompt": "hello", "max_tokens": 24, "ignore_eos": True, "stream": stream}
        with httpx.Client(base_url=live.url, headers=headers, timeout=TIMEOUT_S) as client:
            while not stop.is_set():
                try:
                    response = client.post("/v1/completions", json=body)
                    counts[outcome_of(response)] += 1
                except httpx.TimeoutException:
                    counts["hanging"] += 1
                except httpx.TransportError:
                    counts["connection lost"] += 1
                    time.sleep(0.1)

    client_threads = [threading.Thread(target=send_requests, args=(number % 2 == 0,)) for number in range(4)]
    for thread in client_threads:
        thread.start()
    time.sleep(5)
    assert kill() > 0
    time.sleep(seconds)
    stop.set()
    for thread in client_threads:
        thread.join()
    return counts


def outcome_of(response: httpx.Response) -> str:
    if response.status_code != 200:
        is_json = response.headers.get("content-type") == "application/json"
        reason = response.json()["error"]["code"] if is_json else response.text
        return f"{response.status_code} {reason}"
    if response.headers["content-type"].startswith("text/event-stream"):
        if '"error"' in response.text:
            return "interrupted"
        return "streamed" if "[DONE]" in response.text else "no last event"
    return "complete"


def check_outcomes(killed: str, counts: Mapping[str, int]) -> None:
    print(killed, dict(counts))
    assert counts["complete"] > 0
    assert counts["streamed"] > 0
    assert counts.keys() <= ALLOWED_OUTCOMES


@pytest.mark.bench
@pytest.mark.parametrize("deployment", ["skills-r8", "gateway"])
def test_no_request_hangs_when_a_replica_is_killed_under_load(live: LiveServer, deployment: str) -> None:
    check_outcomes(deployment, run_load(live, f"killed-{deployment}", lambda: kill_replicas(deployment), 60))


def kill_proxy() -> int:
    [proxy] = find_processes("ProxyActor")
    proxy.kill()
    return 1


@pytest.mark.bench
def test_no_request_hangs_when_the_proxy_is_killed_under_load(live: LiveServer) -> None:
    check_outcomes("proxy", run_load(live, "killed-proxy", kill_proxy, 30))


@pytest.mark.bench
def test_no_request_hangs_when_a_node_is_killed_under_load(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.serve.two_nodes", str(tmp_path)]
    process = subprocess.run(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True, check=True)
    # Ray writes to standard output too.
    report = next(line for line in process.stdout.splitlines() if line.startswith("{"))
    check_outcomes("node", Counter(json.loads(report)))
