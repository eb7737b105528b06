"""Looper over the nodes of the lab, under load, and what is done to it."""

import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path

import psutil

from tests.cluster.faults.measure import GRACE_S, QUIET_S, FaultResult, Lines, Window, is_quiet, measure
from tests.cluster.lab import Node
from tests.cluster.lab.deployed import PORT, SMALL_ENGINES, DeployedLooper, deployed_looper
from tests.cluster.lab.node import RAY_PORT
from tests.jobs.episodes import RECIPE

ENGINES = 2
WORKERS = [(1, {"engine": 1})] * ENGINES + [(4, {"trainer": 1})]
"""CPUs and resources of all nodes but the head, which has no part of Looper.

Nodes of engines have one CPU, and so room for one engine, as on a machine with one GPU: a lost engine waits for its
node. The last node synthesizes and trains.
"""

AWAY_S = 20.0
"""How long a node is off before it starts again, in seconds."""

STOPPED_S = 30.0
"""How long a node is stopped or cut off, in seconds."""

START_TIMEOUT_S = 240.0

REQUEST_TIMEOUT_S = 60
SETTINGS = {
    "LOOPER_SERVE__REPLICAS": str(ENGINES),
    "LOOPER_SERVE__GATEWAYS": str(ENGINES),
    **SMALL_ENGINES,
    "LOOPER_SERVE__REQUEST_TIMEOUT_S": str(REQUEST_TIMEOUT_S),
    "LOOPER_CONSOLIDATION__NUM_WORKERS": "1",
    "LOOPER_CLUSTER__CONTROL_LOOPS": str(ENGINES),
    "LOOPER_ROLES__ENGINES": "engine",
    "LOOPER_ROLES__GATEWAYS": "engine",
    "LOOPER_ROLES__CONTROL": "engine",
    "LOOPER_ROLES__TRAINERS": "trainer",
    "LOOPER_ROLES__DATA": "trainer",
}
PARTS = ("gateway", "skills-r8", "control-loop")
"""Deployments of Looper, whose replicas are counted."""

PART = re.compile(r"ray::ServeReplica:looper:([\w-]+)")


class FaultLab:
    """Looper under load. ``fault_lab`` creates it."""

    def __init__(self, looper: DeployedLooper) -> None:
        self.looper = looper
        self.head, *self.workers = looper.lab.nodes
        self.addresses = [f"{node.address}:{PORT}" for node in self.workers[:ENGINES]]
        self._windows: list[Window] = []
        self._submitted = 0

    def start_ray(self, node: Node) -> None:
        """Start Ray on a node. The head keeps its tables on disk."""
        if node is self.head:
            storage = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(node.home / "gcs")}
            node.start_ray(cpus=0, environment=storage)
        else:
            cpus, resources = WORKERS[self.workers.index(node)]
            node.start_ray(self.head, cpus=cpus, resources=resources)

    def start(self) -> None:
        """Publish the skills, bring Looper up, and start the load."""
        looper, services = self.looper, self.looper.lab.services
        for node in looper.lab.nodes:
            self.start_ray(node)
        for node in self.workers:  # the application is built on one of them
            node.put(self.head.folder / "home/base", "base")
            node.run(["mkdir", "-p", self.head.home])
            node.run(["ln", "-s", node.home / "base", looper.base])
        looper.drive("publish", str(looper.base))
        looper.up()
        shutil.copy(self.head.folder / "home/skills.json", services.folder / "home/skills.json")
        load = services.start(["python", "-m", "tests.cluster.faults.load", *self.addresses])
        self._lines = Lines(load.out)
        self._log = load.err
        self._all_parts = Counter(dict.fromkeys(PARTS, ENGINES))
        assert self.wait_until_as_before(START_TIMEOUT_S) is not None, self._describe()

    def count_parts(self) -> Counter[str]:
        """Count the replicas of each part that run on all nodes."""
        counts = Counter[str]()
        for node in self.workers:
            for process in node.processes() if node.is_running() else ():
                with suppress(psutil.NoSuchProcess):
                    found = PART.match(" ".join(process.cmdline()))
                    counts.update(found.groups() if found else ())
        return Counter({part: counts[part] for part in PARTS})

    def wait_until_as_before(self, timeout_s: float) -> float | None:
        """Wait until all parts run and all nodes answer; return since when, None if that took too long."""
        deadline = time.time() + timeout_s + QUIET_S
        while (now := time.time()) < deadline:
            self._start_ray_where_it_has_ended()
            if is_quiet(self._lines.read(), now, self.addresses) and self.count_parts() == self._all_parts:
                return now - QUIET_S
            time.sleep(0.5)
        return None

    def _start_ray_where_it_has_ended(self) -> None:
        """Do what KubeRay or systemd does: Ray ends on a node that comes back after Ray has given it up."""
        for node in self.looper.lab.nodes:
            with suppress(psutil.NoSuchProcess):
                if not any(process.name() == "raylet" for process in node.processes()):
                    print(f"Ray has ended on {node.name}", flush=True)
                    self.start_ray(node)

    def inflict(self, fault: str) -> None:
        """Have a fault while consolidations are in flight, and wait until all is as before."""
        action, number = FAULTS[fault]
        node = self.looper.lab.nodes[number]
        self.submit(2)
        began = time.time()
        self._windows[-1:] = [window._replace(until=began) for window in self._windows[-1:]]
        action(self, node)
        ended = time.time()
        recovered = self.wait_until_as_before(START_TIMEOUT_S)
        if recovered is None:
            print(f"{fault}: {self._describe()}")
        hurt = [address for address in self.addresses if address.startswith(f"{node.address}:")]
        self._windows.append(Window(fault, hurt, began, ended, recovered, inf))

    def submit(self, count: int) -> None:
        """Queue consolidations of new instances."""
        self.looper.drive_beside("submit", str(self.looper.base), str(count), str(RECIPE.epochs), f"{self._submitted}-")
        self._submitted += count

    def conclude(self, timeout_s: float) -> tuple[list[FaultResult], dict[str, int]]:
        """Wait for the consolidations; return what each fault did, and how many of them ended how."""
        self.looper.drive_beside("wait", str(timeout_s), timeout=timeout_s + 60)
        found = self.looper.drive_beside("count-trained")
        events = self._lines.read()
        results = [measure(window, events) for window in self._windows]
        return results, found["states"] | {"submitted": self._submitted, "doubled": found["unlike"]}

    def _describe(self) -> str:
        last = [json.dumps(event) for event in self._lines.read()[-12:]]
        return "\n".join([f"{dict(self.count_parts())}", *last, self._log.read_text()[-2000:]])


def kill(lab: FaultLab, node: Node) -> None:
    """A node loses its power, and starts again after a while."""
    node.kill()
    time.sleep(AWAY_S)
    node.restart()
    lab.start_ray(node)


def drain(lab: FaultLab, node: Node) -> None:
    """A node is told to go, as by a spot notice or ``kubectl drain``; then it goes, and another one comes."""
    node.run(
        ["python", "-m", "looper.cluster.drain_node", "--grace-s", f"{GRACE_S}"],
        environment={"RAY_ADDRESS": f"{lab.head.address}:{RAY_PORT}"},
        timeout=GRACE_S + 30,
    )
    node.kill()
    node.restart()
    lab.start_ray(node)


def stop(_: FaultLab, node: Node) -> None:
    """All processes of a node stand still for a while."""
    with node.frozen():
        time.sleep(STOPPED_S)


def cut_off(_: FaultLab, node: Node) -> None:
    """A node's packets are lost for a while."""
    node.cut_off()
    time.sleep(STOPPED_S)
    node.heal()


FAULTS: dict[str, tuple[Callable[[FaultLab, Node], None], int]] = {
    "kill-engine-1": (kill, 1),
    "kill-engine-2": (kill, 2),
    "kill-trainer": (kill, 3),
    "kill-head": (kill, 0),
    "drain": (drain, 1),
    "stop": (stop, 2),
    "cut-off": (cut_off, 1),
}
"""What can be done, and to which node. The first is the head."""


@contextmanager
def fault_lab(folder: Path) -> Iterator[FaultLab]:
    """Have Looper under load."""
    with deployed_looper(folder, 1 + len(WORKERS), SETTINGS, start_ray=False) as looper:
        lab = FaultLab(looper)
        lab.start()
        yield lab
