"""Ray Serve's controller is killed and started again: whatever serves goes on in the processes that it had."""

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
from looper.serve.deployment.ray_app import NAME, serve_s_log_kept
from tests.serve.live import Live, ask, processes

PATIENCE_S = 120
"""The controller is there again, and has asked every replica, within 3 s. An engine that it starts anew takes 20."""

SERVING = ("ServeReplica:looper:gateway", "ServeReplica:looper:skills-r8", "Loader", "EngineCore", "ProxyActor")
"""What the processes that serve are called."""


def serving() -> dict[str, set[int]]:
    """Ids of the processes that serve, by what they are called."""
    return {name: {process.pid for process in processes(name)} for name in SERVING}


def restart_controller() -> None:
    """Kill it, and wait until the one that Ray starts in its place knows every replica."""
    controller: Any = ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    victim = psutil.Process(ray.get(controller.get_pid.remote()))
    victim.kill()
    victim.wait(PATIENCE_S)
    assert ray.get(controller.get_pid.remote(), timeout=PATIENCE_S) != victim.pid
    until = time.monotonic() + PATIENCE_S
    while serve.status().applications[NAME].status != "RUNNING":  # DEPLOYING, until it has asked them all
        assert time.monotonic() < until, serve.status()
        time.sleep(0.2)  # Ray has no event for it


def test_a_restart_of_the_controller_stops_nothing_that_serves(live: Live) -> None:
    client = live.tenant("restart")
    live.publish(InstanceName("restart", "agent"), 90)
    answer = ask(client, "restart/agent")
    before = serving()
    assert all(before.values()), before
    over, answers, errors = threading.Event(), set[tuple[str, str]](), list[str]()

    def keep_asking() -> None:
        while not over.is_set():
            try:
                answers.add(ask(client, "restart/agent"))
            except openai.APIError as error:
                errors.append(repr(error))
                over.wait(0.1)

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        restart_controller()
    finally:
        over.set()
        asking.join()
    assert serving() == before
    assert errors == []
    assert answers == {answer}
    assert ask(client, "restart/agent") == answer


def test_what_configures_logging_leaves_ray_serve_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger, path = logging.getLogger("ray.serve"), tmp_path / "replica.log"
    file = logging.FileHandler(path)
    handler = MemoryHandler(1, target=file)
    monkeypatch.setattr(logger, "handlers", [handler])
    with serve_s_log_kept():
        logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})  # as vLLM does when it is imported
        assert handler.target is None
    logger.warning("still written")
    file.close()
    assert path.read_text() == "still written\n"
