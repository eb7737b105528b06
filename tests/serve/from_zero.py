"""A server that begins with no engine, gets two by load, and none when it is left alone; prints how it went.

``python -m tests.serve.from_zero FOLDER``: a process of its own, as a test session has a server already.
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
from looper.serve.deployment.ray_app import NAME
from looper.serve.deployment.ray_environment import set_for_ray
from tests.serve.live import Live, ask, serving

PATIENCE_S = 600


def engines() -> int:
    """How many serve now."""
    states = serve.status().applications[NAME].deployments["skills-r8"].replica_states
    return sum(count for state, count in states.items() if state == "RUNNING")


def wait_for(count: int) -> float:
    """Until there are so many engines; return the seconds."""
    began = time.monotonic()
    while engines() != count:
        assert time.monotonic() - began < PATIENCE_S, f"{engines()} engines"
        time.sleep(0.5)  # Ray has no event for it
    return time.monotonic() - began


def timed(client: openai.OpenAI, model: str) -> tuple[tuple[str, str], float]:
    began = time.monotonic()
    return ask(client, model), time.monotonic() - began


def under_load(live: Live, model: str) -> tuple[float, Counter[str]]:
    """Eight at once where four have a seat, until a second engine has served for a while."""
    over, counts = threading.Event(), Counter[str]()
    client = live.tenant("zero").with_options(timeout=PATIENCE_S)

    def keep_asking() -> None:
        while not over.is_set():
            try:
                ask(client, model, max_tokens=100, extra_body={"ignore_eos": True})
                counts["answered"] += 1
            except openai.APIError as error:
                counts[repr(error)] += 1

    clients = [threading.Thread(target=keep_asking) for _ in range(8)]
    for each in clients:
        each.start()
    try:
        seconds = wait_for(2)
        time.sleep(10)
    finally:
        over.set()
        for each in clients:
            each.join()
    return seconds, counts


def main() -> None:
    set_for_ray()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        with serving(Path(sys.argv[1]), replicas=0, max_replicas=2) as live:
            client, model = live.tenant("zero").with_options(timeout=PATIENCE_S), "zero/agent"
            live.publish(InstanceName("zero", "agent"), 1)
            at_first = engines()
            first, from_zero_s = timed(client, model)
            to_two_s, counts = under_load(live, model)
            to_zero_s = wait_for(0)
            again, again_s = timed(client, model)
        report = {
            "engines_at_first": at_first,
            "first_answer_s": from_zero_s,
            "second_engine_s": to_two_s,
            "under_load": counts,
            "none_left_s": to_zero_s,
            "same_answer": first == again,
            "answer_from_zero_again_s": again_s,
        }
        print(json.dumps(report))
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
