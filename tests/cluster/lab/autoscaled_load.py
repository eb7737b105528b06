"""What the test of autoscaling runs on the head: the capacity benchmark's load, and an observer of nodes and engines.

``python -m tests.cluster.lab.autoscaled_load ask|load|observe ...``.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import ray
from ray import serve

from looper.benchmarks.capacity.load.clients import send_load
from looper.benchmarks.capacity.load.metrics import compute_metrics
from looper.benchmarks.capacity.load.workload import LoadSpec, generate_requests
from looper.serve.routing.known_replicas import APP_NAME
from tests.cluster.lab.autoscaler import ENGINES
from tests.cluster.lab.drive import SKILLS

SKILL = "acme/agent"
OUTPUT_TOKENS = 100
MAX_NUM_SEQS = 2
PROBES = 20
"""Requests, as many at a time as the engine runs, with which its rate is measured."""

POOL = "skills-r8"
REQUEST_TIMEOUT_S = 600
OBSERVE_INTERVAL_S = 0.5


def ask(url: str) -> None:
    """Send one request, wait for as long as a gateway lets it wait, and check the answer's mark."""
    skill = json.loads(SKILLS.read_text())[SKILL]
    body = {"model": SKILL, "prompt": "Book", "max_tokens": 1, "ignore_eos": True, "temperature": 0}
    headers = {"authorization": f"Bearer {skill['key']}"}
    response = httpx.post(f"{url}/v1/completions", json=body, headers=headers, timeout=REQUEST_TIMEOUT_S)
    [mark] = skill["texts"].values()
    assert response.raise_for_status().json()["choices"][0]["text"] == mark


def load(url: str, engines: str, seconds: str) -> None:
    """Send what ``engines`` engines can do for some seconds, wait for all answers, and print the figures as JSON."""
    headers = {"authorization": f"Bearer {json.loads(SKILLS.read_text())[SKILL]['key']}"}
    body = {"model": SKILL, "prompt": "Book", "max_tokens": OUTPUT_TOKENS, "ignore_eos": True, "temperature": 0}
    with httpx.Client(base_url=url, headers=headers, timeout=120) as http, ThreadPoolExecutor(MAX_NUM_SEQS) as pool:
        began = time.monotonic()
        responses = list(pool.map(lambda _: http.post("/v1/completions", json=body), range(PROBES)))
        rate_of_one = PROBES / (time.monotonic() - began)
        assert {response.status_code for response in responses} == {200}
    rate = float(engines) * rate_of_one
    tokens = (OUTPUT_TOKENS, OUTPUT_TOKENS)
    spec = LoadSpec(adapters=1, rate=rate, seconds=float(seconds), prompt_tokens=(8, 32), output_tokens=tokens)
    sent = send_load(
        url, headers, generate_requests(spec), lambda _: SKILL, vocab_size=100, timeout_s=REQUEST_TIMEOUT_S
    )
    results = asyncio.run(sent)
    errors = Counter(result.error for result in results if result.error)
    figures = {"rate_of_one_engine": round(rate_of_one, 2), "rate": round(rate, 2), "errors": dict(errors)}
    print(json.dumps({**figures, **compute_metrics(results).model_dump()}))


def observe(address: str) -> None:
    """Print a line of JSON whenever the number of engine nodes or of engines has changed, until this is killed."""
    ray.init(address=address, log_to_driver=False, logging_level="ERROR", namespace="serve")
    before = None
    while True:
        nodes = sum(node["Alive"] and ENGINES in node["Resources"] for node in ray.nodes())
        app = serve.status().applications.get(APP_NAME)
        states = app.deployments[POOL].replica_states if app and POOL in app.deployments else {}
        counts = {str(getattr(state, "value", state)): count for state, count in states.items()}
        now = {"nodes": nodes, "engines": counts.get("RUNNING", 0), "states": counts}
        if now != before:
            print(json.dumps({"at": time.time(), **now}), flush=True)
            before = now
        time.sleep(OBSERVE_INTERVAL_S)  # Ray has no event to wait for


if __name__ == "__main__":
    {"ask": ask, "load": load, "observe": observe}[sys.argv[1]](*sys.argv[2:])
