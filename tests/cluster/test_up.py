"""``looper up`` on a tiny base model: it answers, restarts when its head is killed, and leaves no process behind."""

import json
import os
import ssl
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
from looper.serve.deployment.tls import trust_own_certificate
from tests.certificates import self_signed
from tests.private_files import find_open_files
from tests.tiny import tiny_base


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    base = tiny_base(tmp_path / "base")
    cert, key = self_signed(tmp_path)
    serve = {"port": 0, "kv_cache_gib": 0.25, "tls_cert": cert, "tls_key": key}
    settings = load_settings(home=tmp_path / "home", base=str(base), serve=serve)
    yield settings
    stop_cluster(settings)


@pytest.fixture
def looper(settings: Settings) -> Callable[..., str]:
    environment = {
        "LOOPER_HOME": str(settings.home),
        "LOOPER_BASE": settings.base,
        "LOOPER_SERVE__PORT": "0",
        "LOOPER_SERVE__KV_CACHE_GIB": "0.25",
        "LOOPER_SERVE__TLS_CERT": str(settings.serve.tls_cert),
        "LOOPER_SERVE__TLS_KEY": str(settings.serve.tls_key),
        # The prepared base model must not outlive the test. vLLM's cache is kept, because it saves time.
        "XDG_CACHE_HOME": str(settings.home / "cache"),
        "VLLM_CACHE_ROOT": str(Path("~/.cache/vllm").expanduser()),
    }

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "looper", *arguments]
        return subprocess.run(command, env=os.environ | environment, check=True, capture_output=True, text=True).stdout

    return run


def test_up_restarts_a_killed_head_and_down_ends_everything(settings: Settings, looper: Callable[..., str]) -> None:
    url = json.loads(looper("up", "--json"))["url"]
    assert json.loads(looper("up", "--json"))["url"] == url, "a second `looper up` finds the running cluster"
    assert url.startswith("https://127.0.0.1:")
    assert "healthy" in looper("status")
    state = read_state(settings)
    assert state is not None
    key = json.loads(looper("tenant", "create", "acme", "--json"))["key"]
    headers = {"Authorization": f"Bearer {key}"}
    question = {"model": settings.base, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
    # The certificate names localhost, so a client checks it as any other.
    named, trust = url.replace("127.0.0.1", "localhost"), ssl.create_default_context(cafile=settings.serve.tls_cert)
    with httpx.Client(verify=trust, headers=headers, timeout=60) as client:
        assert client.post(f"{named}/v1/chat/completions", json=question).is_success
    with pytest.raises(httpx.TransportError):
        httpx.get(url.replace("https", "http") + "/healthz")

    assert find_open_files(settings.home) == []
    (head,) = psutil.Process(state.pid).children()
    assert find_open_files(Path(ray_session_of(head)).parents[1], deep=False) == [], "nobody else gets to Ray's sockets"
    descendants = head.children(recursive=True)
    head.kill()
    _, alive = psutil.wait_procs([head, *descendants], timeout=60)
    # One that has ended may wait for the machine's first process to collect it.
    running = [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    assert running == [], "all processes of the dead head end with it"
    restarted = wait_until_up(settings, starts=2)
    trusted = trust_own_certificate(settings.serve)
    assert httpx.get(f"{restarted.url}/v1/models", headers=headers, timeout=60, verify=trusted).is_success

    processes = psutil.Process(state.pid).children(recursive=True)
    assert "Looper is down" in looper("down")
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert alive == []
    assert "no cluster is running" in looper("status")


def ray_session_of(head: psutil.Process) -> str:
    """Return the folder of the Ray session that the head started."""
    (raylet,) = (child for child in head.children(recursive=True) if child.name() == "raylet")
    (session,) = {part.partition("=")[2] for part in raylet.cmdline() if part.lstrip("-").startswith("session_dir=")}
    return session


@retry(wait=wait_fixed(0.5), stop=stop_after_delay(180), retry=retry_if_exception_type(AssertionError), reraise=True)
def wait_until_up(settings: Settings, starts: int) -> ClusterState:
    state = read_state(settings)
    assert state is not None
    assert (state.phase, state.starts) == ("up", starts)
    return state


def test_up_says_in_one_line_why_a_base_model_is_refused(settings: Settings, looper: Callable[..., str]) -> None:
    config = Path(settings.base) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": {"quant_method": "awq"}}))
    with pytest.raises(subprocess.CalledProcessError) as refused:
        looper("up")
    *_, last = refused.value.stderr.splitlines()
    assert last.startswith(f"error: base model '{settings.base}' is quantized (awq)")
    assert read_state(settings) is None
