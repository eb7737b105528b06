"""Nodes and engines come from nothing under the capacity benchmark's load, and go when it is over."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from looper.benchmarks.machine import describe_machine
from tests.cluster.lab import Command
from tests.cluster.lab.autoscaler import FAKE, REAL, NodeStarter, settings, start_autoscaled_ray
from tests.cluster.lab.deployed import DeployedLooper, deployed_looper
from tests.cluster.lab.machine import CHECKOUT

pytestmark = pytest.mark.bench

MAX_NODES = 3
LOAD_S = 30
LOAD_ENGINES = 2
"""The load is what so many engines could do without a pause; each is to have a fifth of pause, so three are needed."""
TIMEOUT_S = 400
DRIVER = ("python", "-m", "tests.cluster.lab.autoscaled_load")


class Observed:
    """What the observer on the head has seen so far."""

    def __init__(self, command: Command) -> None:
        self._command, self.began_at = command, time.time()
        self.marks: list[tuple[str, float]] = []

    def mark(self, event: str) -> float:
        """Note that something happened now, and return the time."""
        self.marks.append((event, time.time()))
        print(f"{time.time() - self.began_at:6.1f} s  {event}", flush=True)
        return self.marks[-1][1]

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._command.out.read_text().splitlines() if line.startswith("{")]

    def wait_for(self, *, nodes: int, engines: int) -> None:
        """Wait until there are so many of both."""
        deadline = time.monotonic() + TIMEOUT_S
        while not (lines := self.lines()) or (lines[-1]["nodes"], lines[-1]["engines"]) != (nodes, engines):
            assert time.monotonic() < deadline, f"{lines[-1:]}: {self._command.read()[-2000:]}"
            assert self._command.poll() is None, self._command.read()[-2000:]
            time.sleep(0.5)  # it writes into a file
        print(f"{nodes} nodes, {engines} engines", flush=True)

    def report(self) -> None:
        """Print what happened as the table of docs/results/autoscaling.md."""
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=CHECKOUT)
        print(f"\n{describe_machine()}, commit {commit.stdout.strip()}.\n\n| seconds | what happened |\n| ---: | --- |")
        seen = [(f"{line['nodes']} nodes; engines: {line['states'] or 'none'}", line["at"]) for line in self.lines()]
        for event, at in sorted([*self.marks, *seen], key=lambda each: each[1]):
            print(f"| {at - self.began_at:.1f} | {event} |")


@contextmanager
def autoscaled(folder: Path, nodes: str) -> Iterator[DeployedLooper]:
    with deployed_looper(folder, 1 if nodes == FAKE else 1 + MAX_NODES, settings(MAX_NODES), start_ray=False) as looper:
        start_autoscaled_ray(looper.lab, nodes, MAX_NODES)
        with nullcontext() if nodes == FAKE else NodeStarter(looper.lab).running():
            yield looper


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("nodes", [FAKE, REAL])
def test_nodes_and_engines_go_from_zero_to_three_and_back(tmp_path: Path, nodes: str) -> None:
    with autoscaled(tmp_path / "lab", nodes) as looper:
        head = looper.operator
        looper.drive("publish", str(looper.base))
        [url] = looper.up()
        address = f"{head.address}:6379"
        observed = Observed(head.start([*DRIVER, "observe", address], environment=looper.environment))
        try:
            run(looper, url, observed, nodes)
        finally:
            observed.report()


def run(looper: DeployedLooper, url: str, observed: Observed, nodes: str) -> None:
    observed.wait_for(nodes=0, engines=0)
    asked_at = observed.mark("the first request is sent")
    first = looper.operator.start([*DRIVER, "ask", url], environment=looper.environment)
    if nodes == REAL:  # a fake node comes sooner than a report says that something waits
        waits = wait_for_wait(looper)
        observed.mark(f"looper status says that this waits: {waits}")
        assert waits["what"].startswith("skills-r8"), waits
        assert waits["resources"].keys() == {"CPU", "looper_engines"}
    assert first.wait(TIMEOUT_S) == 0, first.read()
    observed.mark(f"it is answered after {time.time() - asked_at:.1f} s")
    observed.wait_for(nodes=1, engines=1)
    observed.mark("the load begins")
    load = looper.operator.start([*DRIVER, "load", url, f"{LOAD_ENGINES}", f"{LOAD_S}"], environment=looper.environment)
    observed.wait_for(nodes=3, engines=3)
    assert load.wait(TIMEOUT_S) == 0, load.read()[-3000:]
    figures = json.loads(load.out.read_text())
    observed.mark("the last request of the load is answered")
    observed.mark(f"figures of the load: {figures}")
    errors = figures["errors"]
    # Fake nodes share an address: a listener that joins or leaves it resets a handshake that was begun with another.
    assert set(errors) <= ({"ReadError: "} if nodes == FAKE else set()), figures
    assert sum(errors.values()) <= MAX_NODES, figures
    observed.wait_for(nodes=0, engines=0)
    status = json.loads(looper.looper("status", "--json"))
    assert status["healthy"], "gateway and control loop are on the head"
    assert status["leader"]
    assert status["report"]["waiting"] == []


def wait_for_wait(looper: DeployedLooper) -> dict[str, Any]:
    """Return what ``looper status`` says that waits, as soon as something does."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        status = json.loads(looper.looper("status", "--json"))
        if status["report"] and status["report"]["waiting"]:
            return dict(status["report"]["waiting"][0])
    raise AssertionError(f"nothing waited: {status}")
