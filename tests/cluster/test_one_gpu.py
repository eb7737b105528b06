"""``looper up`` on a machine with one GPU, which its engine and its trainer share."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from looper.cluster.control import stop_cluster
from looper.cluster.state import read_state
from looper.gym.generate import record_episodes
from looper.gym.workplaces import WORKPLACES
from looper.platform.settings import Settings, load_settings
from tests.cluster.pretended_gpu import allocation
from tests.cluster.pretended_gpu.environment import pretend_gpu
from tests.gate import LENIENT_GATE
from tests.tiny import tiny_base

SKILL = "orchard/helpdesk"


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    settings = load_settings(
        home=tmp_path / "home", base=str(tiny_base(tmp_path / "base")), consolidation={"gate": LENIENT_GATE}
    )
    yield settings
    stop_cluster(settings)


@pytest.fixture
def looper(settings: Settings, tmp_path: Path) -> Callable[..., str]:
    environment = os.environ | {
        **pretend_gpu(tmp_path / "metadata"),
        "LOOPER_HOME": str(settings.home),
        "LOOPER_BASE": settings.base,
        "LOOPER_SERVE__PORT": "0",
        # The prepared base model must not outlive the test.
        "XDG_CACHE_HOME": str(settings.home / "cache"),
    }

    def run(*arguments: str) -> str:
        return subprocess.check_output([sys.executable, "-m", "looper", *arguments], env=environment, text=True)

    return run


# It took 290 s on two cores that others used too. On a GPU, the replica, Ray LLM's task for the configuration, the fork
# server of cores and the worker import vLLM one after the other.
@pytest.mark.bench
def test_an_engine_and_a_trainer_have_half_of_a_gpu_each(
    settings: Settings, looper: Callable[..., str], tmp_path: Path
) -> None:
    url = json.loads(looper("up", "--json"))["url"]
    assert "engines and trainers share GPUs: 50% of each" in looper("status")
    key = json.loads(looper("tenant", "create", SKILL.partition("/")[0], "--json"))["key"]
    file = tmp_path / "episodes.jsonl"
    file.write_bytes(b"".join(one.to_jsonl() for one in record_episodes(WORKPLACES[SKILL], seed=7, tasks=12)))
    looper("ingest", str(file), "--instance", SKILL)
    [job] = json.loads(looper("consolidate", SKILL, "--epochs", "1", "--wait", "--json"))
    assert job["state"] == "published", job["reason"]

    state = read_state(settings)
    assert state is not None
    supervisor = psutil.Process(state.pid)
    allocated = allocation.read(find_gcs_address(supervisor))
    assert allocated["free"] == 0
    assert sorted(allocated["groups"], key=str) == [
        [{"CPU": 0.1, "GPU": 0.5}],  # the trainer, which waits for its next consolidation
        [{"CPU": 1.0, "GPU": 0.5}],  # the engine
    ]

    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=120) as client:
        answer = ask(client, SKILL)
        assert answer.headers["x-looper-version"] == job["digest"]
        assert text_of(answer) != text_of(ask(client, settings.base))
        find_core(supervisor).kill()
        assert text_of(ask(client, SKILL)) == text_of(answer), "another core has taken the place of the dead one"


@retry(wait=wait_fixed(0.5), stop=stop_after_delay(300), retry=retry_if_exception_type(AssertionError), reraise=True)
def ask(client: httpx.Client, model: str) -> httpx.Response:
    """Ask until the engine answers: while it starts again, clients are told to come back."""
    body = {"model": model, "prompt": "Please book the blue room.", "max_tokens": 12, "temperature": 0}
    response = client.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    return response


def text_of(response: httpx.Response) -> Any:
    return response.json()["choices"][0]["text"]


def find_core(supervisor: psutil.Process) -> psutil.Process:
    [core] = (each for each in supervisor.children(recursive=True) if "EngineCore" in " ".join(each.cmdline()))
    return core


def find_gcs_address(supervisor: psutil.Process) -> str:
    """Return the address of Ray's head, from the command line of its raylet."""
    [raylet] = (each for each in supervisor.children(recursive=True) if each.name() == "raylet")
    return next(part.partition("=")[2] for part in raylet.cmdline() if part.startswith("--gcs-address="))
