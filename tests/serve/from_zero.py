"""Runs a server that starts without an engine, gets two under load and none without it; prints a report.

``python -m tests.serve.from_zero FOLDER``: it is a process of its own, because a test session has a server already.
"""

import json
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import openai
import ray
from ray import serve

from looper.platform.domain.names import InstanceName
from looper.serve.deployment.ray_environment import set_ray_environment
from looper.serve.routing.known_replicas import APP_NAME
from tests.serve.live import LiveServer, run_server, send_chat

TIMEOUT_S = 600


def count_engines() -> int:
    """Return the number of running engines."""
    states = serve.status().applications[APP_NAME].deployments["skills-r8"].replica_states
    return sum(count for state, count in states.items() if state == "RUNNING")


def wait_for(count: int) -> float:
    """Wait until there are ``count`` engines; return the seconds."""
    started = time.monotonic()
    while count_engines() != count:
        assert time.monotonic() - started < TIMEOUT_S, f"{count_engines()} engines"
        time.sleep(0.5)  # Ray has no event to wait for
    return time.monotonic() - started


def send_timed(client: openai.OpenAI, model: str) -> tuple[tuple[str, str], float]:
    started = time.monotonic()
    return send_chat(client, model), time.monotonic() - started


def scale_up_under_load(live: LiveServer, model: str) -> tuple[float, Counter[str]]:
    """Send eight requests at a time to an engine that runs four, until a second engine has served for a while."""
    stop, counts = threading.Event(), Counter[str]()
    client = live.tenant("zero").with_options(timeout=TIMEOUT_S)

    def send_repeatedly() -> None:
        while not stop.is_set():
            try:
                send_chat(client, model, max_tokens=100, extra_body={"ignore_eos": True})
                counts["completed"] += 1
            except openai.APIError as error:
                counts[repr(error)] += 1

    threads = [threading.Thread(target=send_repeatedly) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        seconds = wait_for(2)
        time.sleep(10)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return seconds, counts


def main() -> None:
    set_ray_environment()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        with run_server(Path(sys.argv[1]), replicas=0, max_replicas=2) as live:
            client, model = live.tenant("zero").with_options(timeout=TIMEOUT_S), "zero/agent"
            live.publish(InstanceName("zero", "agent"), 1)
            at_start = count_engines()
            first, from_zero_s = send_timed(client, model)
            to_two_s, counts = scale_up_under_load(live, model)
            to_zero_s = wait_for(0)
            again, again_s = send_timed(client, model)
        report = {
            "engines_at_start": at_start,
            "first_response_s": from_zero_s,
            "second_engine_s": to_two_s,
            "under_load": counts,
            "none_left_s": to_zero_s,
            "same_response": first == again,
            "response_from_zero_again_s": again_s,
        }
        print(json.dumps(report))
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
