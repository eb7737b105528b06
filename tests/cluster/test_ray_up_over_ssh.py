"""``ray up cluster/ray_up/machines.yaml`` over SSH, and Looper put on that Ray by ``serve deploy``, as the page says.

``serve deploy`` sends the config of ``looper serve-config`` in one PUT to the dashboard, as KubeRay does.
"""

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from tenacity import retry, retry_if_result, stop_after_delay, wait_fixed

from tests.cluster.lab.deployed import PORT, DeployedLooper, deployed_looper
from tests.cluster.lab.node import Node, create_ssh_key
from tests.cluster.test_several_nodes import SETTINGS
from tests.manifests.checks import RAY_UP, ROLE_RESOURCES

pytestmark = pytest.mark.bench

_, MACHINES = RAY_UP
BASE = "/tmp/base"
ROLES = {f"LOOPER_ROLES__{name.removeprefix('looper_').upper()}": name for name in ROLE_RESOURCES}
ONE_OF_EACH = {"LOOPER_SERVE__REPLICAS": "1", "LOOPER_SERVE__GATEWAYS": "1", "LOOPER_CONSOLIDATION__NUM_WORKERS": "1"}


@pytest.mark.timeout(1800)
def test_ray_up_and_serve_deploy(tmp_path: Path) -> None:
    if not shutil.which("rsync"):
        pytest.skip("rsync is not installed (Debian: apt-get install rsync)")
    with deployed_looper(tmp_path / "lab", 3, {**SETTINGS, **ONE_OF_EACH, **ROLES}, start_ray=False) as looper:
        key = create_ssh_key(tmp_path)
        laptop, head, worker = looper.lab.nodes
        write_config(looper, head, worker)
        for node, roles in ((laptop, {}), (head, {}), (worker, dict.fromkeys(ROLE_RESOURCES, 1000))):
            prepare_machine(looper, node, key, roles)
        looper.environment["LOOPER_BASE"] = BASE
        (laptop.folder / "home/looper-serve.yaml").write_text(looper.looper("serve-config"))

        ray(laptop, "up", "--yes", "--no-config-cache", "machines.yaml")
        wait_for(laptop, "~/venv/bin/ray status", "2 node_", "2 local.cluster.node")
        ray(laptop, "exec", "machines.yaml", "~/venv/bin/serve deploy ~/looper-serve.yaml")
        wait_for(laptop, "~/venv/bin/serve status", "status: RUNNING")
        looper.drive("publish", str(looper.base))
        assert looper.drive("ask", "100", "4", f"http://{worker.address}:{PORT}")["outcomes"] == {"right": 100}
        ray(laptop, "down", "--yes", "machines.yaml")


def write_config(looper: DeployedLooper, head: Node, worker: Node) -> None:
    """Write the file of ``ray up`` into the laptop's home, with what is marked in it set."""
    config = yaml.safe_load(MACHINES.read_text())
    config["provider"] |= {"head_ip": head.address, "worker_ips": [worker.address]}
    config["auth"]["ssh_user"] = "root"
    config["file_mounts"][BASE] = str(looper.base)
    (looper.operator.folder / "home/machines.yaml").write_text(yaml.safe_dump(config))


def prepare_machine(looper: DeployedLooper, node: Node, key: Path, roles: dict[str, int]) -> None:
    """Put on a machine what the head of the file asks for."""
    node.start_sshd(key)
    home = node.folder / "home"
    (home / "venv").symlink_to(sys.prefix)
    secrets = {name: value for name, value in looper.environment.items() if name.startswith("AWS_")}
    secrets["LOOPER_CATALOG__URL"] = looper.environment["LOOPER_CATALOG__URL"]
    (home / "looper-secrets.env").write_text("".join(f"{name}={value}\n" for name, value in secrets.items()))
    (home / "looper-roles.json").write_text(json.dumps(roles))


def ray(laptop: Node, *arguments: str) -> str:
    """Run Ray's launcher on the laptop; return what it printed."""
    done = laptop.run([sys.executable, "-m", "ray.scripts.scripts", *arguments], timeout=400)
    return done.stdout + done.stderr


def wait_for(laptop: Node, command: str, *words: str) -> None:
    """Run a command on the head until it prints one of some words."""

    @retry(stop=stop_after_delay(300), wait=wait_fixed(2), retry=retry_if_result(lambda found: not found))
    def look() -> bool:
        printed = ray(laptop, "exec", "machines.yaml", command)
        return any(each in printed for each in words)

    look()
