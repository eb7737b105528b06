"""Twenty consolidations by two trainers on two nodes, and by one: how much faster two are.

Each of the two nodes that train has one core of this machine and room for one trainer, so two trainers can be twice as
fast at most. Everything else is on the head, which shares both cores: the control loop, synthesis, the gateway, and the
stores beside it. There is no engine, which nobody would ask. Trainers live as long as there is work, so they are warm
before the time is taken.
"""

from pathlib import Path

import pytest

from tests.cluster.lab.deployed import DeployedLooper, deployed_looper
from tests.cluster.test_several_nodes import SETTINGS
from tests.manifests.checks import ROLE_RESOURCES

pytestmark = pytest.mark.bench

CONSOLIDATIONS = 20
WARM_UP = 8
"""Consolidations before: enough that the second trainer is up when they have ended."""
EPOCHS = 80
WANTED = 1.6
ONE_WORKER = {
    **SETTINGS,
    "LOOPER_SERVE__REPLICAS": "0",
    "LOOPER_SERVE__MAX_REPLICAS": "1",
    "LOOPER_SERVE__GATEWAYS": "1",
    "LOOPER_CONSOLIDATION__NUM_WORKERS": "1",
    "LOOPER_CONSOLIDATION__COHORT_SIZE": "2",
    "LOOPER_CLUSTER__CONTROL_LOOPS": "1",
    **{f"LOOPER_ROLES__{role.removeprefix('looper_').upper()}": role for role in ROLE_RESOURCES},
}
TRAINERS = "looper_trainers"


@pytest.mark.timeout(3600)
def test_two_trainers_are_faster_than_one(tmp_path: Path) -> None:
    with deployed_looper(tmp_path / "lab", 3, ONE_WORKER, start_ray=False) as looper:
        head, *others = looper.lab.nodes
        head.start_ray(cpus=4, resources={role: 1000 for role in ROLE_RESOURCES if role != TRAINERS})
        for core, node in enumerate(others):
            node.start_ray(head, cpus=1, core=core, resources={TRAINERS: 1000})
        one, two = (train(looper, trainers, f"{trainers}-") for trainers in (1, 2))
    print(f"one trainer took {one:.0f} s, two {two:.0f} s: {one / two:.2f} times as fast")
    assert one / two >= WANTED


def train(looper: DeployedLooper, trainers: int, prefix: str) -> float:
    """Bring Looper up with this many trainers, and return the seconds that the consolidations took."""
    looper.environment["LOOPER_CONSOLIDATION__MAX_TRAINERS"] = str(trainers)
    looper.up()
    for count, name in ((WARM_UP, f"{prefix}warm-"), (CONSOLIDATIONS, prefix)):
        ids = looper.drive("submit", str(looper.base), str(count), str(EPOCHS), name)["ids"]
        ended = looper.drive("wait", "900", *ids, timeout=1000)
        assert ended["states"].get("failed", 0) == 0
        assert ended["took_s"], "all have ended"
    looper.looper("down", "--address", f"{looper.operator.address}:6379")
    return float(ended["took_s"])
