"""``looper up`` on a tiny base model: it answers, restarts when its head is killed, and leaves no process behind."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from looper.cluster.control import stop_cluster
from looper.cluster.state import ClusterState, read_state
from looper.platform.settings import Settings, load_settings
from tests.tiny import tiny_base


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    base = tiny_base(tmp_path / "base")
    settings = load_settings(home=tmp_path / "home", base=str(base), serve={"port": 0, "kv_cache_gib": 0.25})
    yield settings
    stop_cluster(settings)


@pytest.fixture
def looper(settings: Settings) -> Callable[..., str]:
    environment = {
        "LOOPER_HOME": str(settings.home),
        "LOOPER_BASE": settings.base,
        "LOOPER_SERVE__PORT": "0",
        "LOOPER_SERVE__KV_CACHE_GIB": "0.25",
        # The prepared base model must not outlive the test. vLLM's cache is kept, because it saves time.
        "XDG_CACHE_HOME": str(settings.home / "cache"),
        "VLLM_CACHE_ROOT": str(Path("~/.cache/vllm").expanduser()),
    }

    def run(*arguments: str) -> str:
        return subprocess.check_output(
            [sys.executable, "-m", "looper", *arguments], env=os.environ | environment, text=True
        )

    return run


def test_up_restarts_a_killed_head_and_down_ends_everything(settings: Settings, looper: Callable[..., str]) -> None:
    url = json.loads(looper("up", "--json"))["url"]
    assert json.loads(looper("up", "--json"))["url"] == url, "a second `looper up` finds the running cluster"
    state = read_state(settings)
    assert state is not None
    key = json.loads(looper("tenant", "create", "acme", "--json"))["key"]
    headers = {"Authorization": f"Bearer {key}"}
    question = {"model": settings.base, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
    assert httpx.post(f"{url}/v1/chat/completions", json=question, headers=headers, timeout=60).is_success

    (head,) = psutil.Process(state.pid).children()
    descendants = head.children(recursive=True)
    head.kill()
    _, alive = psutil.wait_procs([head, *descendants], timeout=60)
    assert alive == [], "all processes of the dead head end with it"
    restarted = wait_until_up(settings, starts=2)
    assert httpx.get(f"{restarted.url}/v1/models", headers=headers, timeout=60).is_success

    processes = psutil.Process(state.pid).children(recursive=True)
    assert "Looper is down" in looper("down")
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert alive == []
    assert "no cluster is running" in looper("status")


@retry(wait=wait_fixed(0.5), stop=stop_after_delay(180), retry=retry_if_exception_type(AssertionError), reraise=True)
def wait_until_up(settings: Settings, starts: int) -> ClusterState:
    state = read_state(settings)
    assert state is not None
    assert (state.phase, state.starts) == ("up", starts)
    return state
