"""Upgrades under load: no request fails and no consolidation is lost, forward and back again.

In place on a Ray that exists, from this release to another one with another setting. And from the release before
upgrades, which only knew private clusters: two clusters side by side on one catalog and store, and a load that moves.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.lab.deployed import DeployedLooper, deployed_looper
from tests.cluster.lab.lab import Lab
from tests.cluster.lab.machine import Command
from tests.cluster.lab.node import Node
from tests.cluster.lab.upgrading import SETTINGS, SteadyLoad, make_next_release, unpack_release, wait_for_state
from tests.serve.marks import single_token_base

pytestmark = pytest.mark.bench

BEFORE = "db4d943"
"""The release before upgrades. Its newest schema is 0006."""

PUBLISHED = 4
"""Consolidations that the driver publishes without training."""


@pytest.mark.timeout(1800)
def test_in_place_on_a_ray_that_exists(tmp_path: Path) -> None:
    with deployed_looper(tmp_path / "lab", 1, SETTINGS, head_cpus=6) as looper:
        node = looper.operator
        looper.drive("publish", str(looper.base))
        (url,) = looper.up()
        load = SteadyLoad(node, url)
        looper.drive("submit", str(looper.base), "2", "400")
        wait_for_state(node, looper.environment, "training", 240)

        make_next_release(node.folder / "home/next")
        upgraded = {
            "PYTHONPATH": f"{node.home}/next",
            "LOOPER_CLUSTER__CODE": f"{node.home}/next",
            "LOOPER_SERVE__MAX_MODEL_LEN": "500",
        }
        assert "9.9.9" in upgrade(looper, upgraded)
        ended = looper.drive("wait", "400", timeout=500)["states"]
        assert (sum(ended.values()), set(ended) <= {"published", "rejected"}) == (PUBLISHED + 2, True), ended
        upgrade(looper, {})

        engines = engine_processes(node)
        upgrade(looper, {"LOOPER_SERVE__REQUESTS_PER_MINUTE": "1000000"})
        assert len(engines) == 1
        assert engine_processes(node) == engines, "a setting of gateways alone"
        found = load.stop()
        print(json.dumps(found))
        assert found["num_failed"] == 0, found
        looper.looper("down", "--address", f"{node.address}:6379")


def upgrade(looper: DeployedLooper, environment: dict[str, str]) -> str:
    """Upgrade. Return the plan that it says afterwards."""
    for arguments in ([], ["--plan"]):
        command = ["python", "-m", "looper", "upgrade", "--address", f"{looper.operator.address}:6379", *arguments]
        done = looper.operator.run(command, environment=looper.environment | environment, timeout=500)
        print(done.stdout)
    assert "is replaced" not in done.stdout
    return done.stdout


def engine_processes(node: Node) -> set[int]:
    return {process.pid for process in node.processes() if "ServeReplica:looper:skills" in process.name()
            or "ServeReplica:looper:skills" in " ".join(process.cmdline())}  # fmt: skip


@pytest.mark.timeout(2400)
def test_from_the_release_before_side_by_side(tmp_path: Path) -> None:
    """Both clusters are private ones, each on a node of its own. The load moves as behind a load balancer."""
    with Lab(tmp_path / "lab", 2) as lab:
        old, new = (SideBySide(lab, node) for node in lab.nodes)
        old.use_release(BEFORE)
        prepared = new.prepare_base()
        old.looper("up")
        old.drive("publish", str(old.base))
        assert prepared.wait(300) == 0, prepared.read()
        load = SteadyLoad(lab.nodes[0], old.url)

        old.drive("submit", str(old.base), "2", "1000")
        new.looper("up")
        load.aim(new.url)
        assert "training" in new.list_states(), "what the old one trains goes on in the new one"
        old.looper("down")
        assert new.wait_for_all() == PUBLISHED + 2

        new.drive("submit", str(new.base), "2", "1000", "back-")
        old.looper("up")
        load.aim(old.url)
        new.looper("down")
        assert old.wait_for_all() == PUBLISHED + 4
        found = load.stop()
        print(json.dumps(found))
        assert found["num_failed"] == 0, found
        old.looper("down")


class SideBySide:
    """A private cluster on a node of the lab, on the catalog and the store of all."""

    def __init__(self, lab: Lab, node: Node) -> None:
        """Prepare the node. The base model has the same path everywhere, because this names it."""
        self.node, self.url = node, f"http://{node.address}:8000"
        self.base = Path("/tmp/base")
        if node is lab.nodes[0]:
            single_token_base(node.folder / "tmp/base")
            lab.services.environment |= lab.services.start_s3() | {"CATALOG": lab.services.start_postgresql()}
        else:
            shutil.copytree(lab.nodes[0].folder / "tmp/base", node.folder / "tmp/base")
        shared = lab.services.environment
        self.environment = {
            **SETTINGS,
            **{name: value for name, value in shared.items() if name.startswith("AWS_")},
            "LOOPER_HOME": str(node.home / "looper"),
            "LOOPER_BASE": str(self.base),
            "LOOPER_CATALOG__URL": shared["CATALOG"],
            "LOOPER_STORE__URL": "s3://lab/looper",
            "LOOPER_STORE__ENDPOINT_URL": shared["AWS_ENDPOINT_URL"],
            "LOOPER_SERVE__HOST": "0.0.0.0",
        }

    def use_release(self, commit: str) -> None:
        """Run another release on the node. The tests' own modules stay those of now."""
        unpack_release(commit, self.node.folder / "home/release")
        self.environment["PYTHONPATH"] = f"{self.node.home}/release:{self.node.environment['PYTHONPATH']}"

    def prepare_base(self) -> Command:
        """Fill the node's cache of base models, in the background."""
        code = "from looper.basemodel.prepare import prepare_base; from looper.platform.settings import load_settings; "
        command = ["python", "-c", code + "prepare_base(load_settings())"]
        return self.node.start(command, environment=self.environment)

    def list_states(self) -> list[str]:
        """Return the states of all consolidations."""
        return [job["state"] for job in json.loads(self.looper("jobs", "list", "--json"))]

    def wait_for_all(self) -> int:
        """Wait until all consolidations have ended, none of them by failing, and return how many there are."""
        states = self.drive("wait", "400", timeout=500)["states"]
        assert set(states) <= {"published", "rejected"}, states
        return int(sum(states.values()))

    def looper(self, *arguments: str) -> str:
        """Run a command of Looper on the node, and return what it printed."""
        command = ["python", "-m", "looper", *arguments]
        return self.node.run(command, environment=self.environment, timeout=500).stdout

    def drive(self, *arguments: str, timeout: float = 300) -> Any:
        """Run the driver of ``drive.py`` on the node, and return the JSON that it printed last."""
        command = ["python", "-m", "tests.cluster.lab.drive", *arguments]
        done = self.node.run(command, environment=self.environment, timeout=timeout)
        return json.loads(done.stdout.strip().splitlines()[-1])
