"""Ray Serve's controller is killed and restarted. All processes that serve keep running."""

import logging
import logging.config
import threading
import time
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
import ray
from ray import serve

from looper.platform.domain.names import InstanceName
from looper.serve.deployment.serve_log import keep_serve_log_open
from looper.serve.routing.known_replicas import APP_NAME
from tests.serve.live import LiveServer, find_processes, send_chat

TIMEOUT_S = 120
"""The controller restarts and asks every replica within 3 s. A new engine takes 20 s."""

PROCESS_NAMES = (
    "ServeReplica:looper:gateway",
    "ServeReplica:looper:skills-r8",
    "AdapterDownloader",
    "EngineCore",
    "ProxyActor",
)
"""Names of the processes that serve."""


def serving_pids() -> dict[str, set[int]]:
    """Return the ids of the processes that serve, by name."""
    return {name: {process.pid for process in find_processes(name)} for name in PROCESS_NAMES}


def restart_controller() -> None:
    """Kill the controller, and wait until the one that Ray starts instead knows every replica."""
    controller: Any = ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    victim = psutil.Process(ray.get(controller.get_pid.remote()))
    victim.kill()
    victim.wait(TIMEOUT_S)
    assert ray.get(controller.get_pid.remote(), timeout=TIMEOUT_S) != victim.pid
    deadline = time.monotonic() + TIMEOUT_S
    while serve.status().applications[APP_NAME].status != "RUNNING":  # DEPLOYING until it has asked all replicas
        assert time.monotonic() < deadline, serve.status()
        time.sleep(0.2)  # Ray has no event to wait for


def test_a_controller_restart_keeps_all_replicas_running(live: LiveServer) -> None:
    client = live.tenant("restart")
    live.publish(InstanceName("restart", "agent"), 90)
    response = send_chat(client, "restart/agent")
    before = serving_pids()
    assert all(before.values()), before
    stop, responses, errors = threading.Event(), set[tuple[str, str]](), list[str]()

    def send_repeatedly() -> None:
        while not stop.is_set():
            try:
                responses.add(send_chat(client, "restart/agent"))
            except openai.APIError as error:
                errors.append(repr(error))
                stop.wait(0.1)

    thread = threading.Thread(target=send_repeatedly)
    thread.start()
    try:
        restart_controller()
    finally:
        stop.set()
        thread.join()
    assert serving_pids() == before
    assert errors == []
    assert responses == {response}
    assert send_chat(client, "restart/agent") == response


def test_configuring_logging_keeps_ray_serves_log_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger, path = logging.getLogger("ray.serve"), tmp_path / "replica.log"
    file = logging.FileHandler(path)
    handler = MemoryHandler(1, target=file)
    monkeypatch.setattr(logger, "handlers", [handler])
    keep_serve_log_open()
    for _ in range(2):  # as the import of vLLM does, and Ray Data's first run
        logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})
    assert handler.target is file
    logger.warning("still written")
    file.close()
    assert path.read_text() == "still written\n"
