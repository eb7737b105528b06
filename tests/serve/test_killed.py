"""What serves is killed under load: every request is answered or gets an error that says so; nothing hangs."""

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
from tests.serve.live import Live, processes

CLEAN = {
    "whole",
    "streamed",
    "broken off",
    "503 engine_gone",
    "500 engine_failed",
    "503 gateway_gone",
    "connection lost",
}
"""How a request may end. An answer that broke off says so in its last event."""

PATIENCE_S = 90
"""A request that takes longer hangs. An engine of the tiny model starts in about 30 s."""


def kill(what: str) -> int:
    """The replicas of a deployment; return how many there were."""
    victims = processes(f"ServeReplica:looper:{what}")
    for victim in victims:
        victim.kill()
    return len(victims)


def under_load(live: Live, tenant: str, strike: Callable[[], int], seconds: float) -> Counter[str]:
    """Outcomes of what four clients ask, one thing after another, while ``strike`` happens five seconds in."""
    key = live.tenant(tenant).api_key
    live.publish(InstanceName(tenant, "agent"), 100)
    over, counts = threading.Event(), Counter[str]()
    headers = {"authorization": f"Bearer {key}"}

    def ask(stream: bool) -> None:
        body = {"model": f"{tenant}/agent", "prompt": "hello", "max_tokens": 24, "ignore_eos": True, "stream": stream}
        with httpx.Client(base_url=live.url, headers=headers, timeout=PATIENCE_S) as client:
            while not over.is_set():
                try:
                    answer = client.post("/v1/completions", json=body)
                    counts[outcome(answer)] += 1
                except httpx.TimeoutException:
                    counts["hangs"] += 1
                except httpx.TransportError:
                    counts["connection lost"] += 1
                    time.sleep(0.1)

    clients = [threading.Thread(target=ask, args=(number % 2 == 0,)) for number in range(4)]
    for client in clients:
        client.start()
    time.sleep(5)
    assert strike() > 0
    time.sleep(seconds)
    over.set()
    for client in clients:
        client.join()
    return counts


def outcome(answer: httpx.Response) -> str:
    if answer.status_code != 200:
        said = (
            answer.text if answer.headers.get("content-type") != "application/json" else answer.json()["error"]["code"]
        )
        return f"{answer.status_code} {said}"
    if answer.headers["content-type"].startswith("text/event-stream"):
        return "broken off" if '"error"' in answer.text else "streamed" if "[DONE]" in answer.text else "cut off"
    return "whole"


def check(what: str, counts: Mapping[str, int]) -> None:
    print(what, dict(counts))
    assert counts["whole"] > 0
    assert counts["streamed"] > 0
    assert counts.keys() <= CLEAN


@pytest.mark.bench
@pytest.mark.parametrize("what", ["skills-r8", "gateway"])
def test_a_replica_that_is_killed_under_load_leaves_nobody_hanging(live: Live, what: str) -> None:
    check(what, under_load(live, f"killed-{what}", lambda: kill(what), 60))


@pytest.mark.bench
def test_a_node_that_is_killed_under_load_leaves_nobody_hanging(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.serve.two_nodes", str(tmp_path)]
    ran = subprocess.run(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True, check=True)
    # Ray prints there, too.
    check("node", Counter(json.loads(next(line for line in ran.stdout.splitlines() if line.startswith("{")))))
