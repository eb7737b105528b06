"""The core of a real engine is killed under requests: they end cleanly, and the engine is back in the same replica."""

import json
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil

from looper.platform.domain.names import InstanceName
from tests.serve.live import LiveServer, find_processes, send_chat

TIMEOUT_S = 120
"""A new core of the tiny model takes 3 s on two idle cores."""


def replica_pids() -> set[int]:
    return {process.pid for process in find_processes("ServeReplica:looper:skills-r8")}


def kill_core() -> None:
    [core] = find_processes("EngineCore")
    core.kill()
    core.wait(TIMEOUT_S)


def test_a_killed_engine_takes_nobody_with_it_and_is_back_in_the_same_replica(live: LiveServer) -> None:
    client = live.tenant("death")
    live.publish(InstanceName("death", "agent"), 77)
    before, replicas = send_chat(client, "death/agent"), replica_pids()
    known_records = set((live.settings.home / "crashes").glob("*.json"))
    http = httpx.Client(base_url=live.url, headers={"authorization": f"Bearer {client.api_key}"}, timeout=TIMEOUT_S)
    long = {"model": "death/agent", "prompt": "hello", "max_tokens": 2000, "ignore_eos": True}
    is_streaming = threading.Event()

    def stream() -> list[str]:
        with http.stream("POST", "/v1/completions", json=long | {"stream": True}) as response:
            lines = []
            for line in response.iter_lines():
                lines.append(line)
                is_streaming.set()
        return [line for line in lines if line]

    with ThreadPoolExecutor(2) as threads:
        streamed = threads.submit(stream)
        assert is_streaming.wait(TIMEOUT_S)
        whole = threads.submit(http.post, "/v1/completions", json=long | {"user": "whole"})
        killed_at = time.monotonic()
        kill_core()
        *_, error, done = streamed.result()
        response = whole.result()
        assert time.monotonic() - killed_at < 10, "whoever waits hears of it, long before a health check fails"
    assert '"error"' in error
    assert done == "data: [DONE]"
    assert response.status_code == 503
    assert response.json()["error"]["code"] in {"engine_died", "engine_gone"}
    assert 1 <= int(response.headers["retry-after"]) <= 10

    body = {"model": "death/agent", "prompt": "hello", "max_tokens": 2, "temperature": 0}
    while (response := http.post("/v1/completions", json=body)).status_code != 200:
        assert response.status_code == 503, response.text
        assert response.json()["error"]["code"] == "engine_gone"
        assert time.monotonic() - killed_at < TIMEOUT_S
        time.sleep(min(0.2, float(response.headers["retry-after"])))
    assert send_chat(client, "death/agent") == before, "the adapter is loaded again"
    assert replica_pids() == replicas, "the replica has gone on living"

    [record] = set((live.settings.home / "crashes").glob("*.json")) - known_records
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    assert stat.S_IMODE(record.parent.stat().st_mode) == 0o700
    suspects = json.loads(record.read_text())["suspects"]
    assert {suspect["body"]["max_tokens"] for suspect in suspects} == {2000}
    assert all(suspect["request_id"] and suspect["version"] == before[1] for suspect in suspects)
    assert any(suspect["generated_tokens"] > 0 for suspect in suspects)


def test_all_ports_of_the_server_s_processes_listen_on_loopback(live: LiveServer) -> None:
    send_chat(live.tenant("ports"), "tiny")  # replicas listen since they serve
    open_ports = {
        (process.name(), connection.laddr)
        for process in psutil.Process().children(recursive=True)
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert any("ServeReplica" in name for name, _ in open_ports)
    assert {port for port in open_ports if port[1].ip not in {"127.0.0.1", "::ffff:127.0.0.1", "::1"}} == set()
