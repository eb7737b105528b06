"""A trainer of two workers on two nodes, one of which dies: it goes on with one worker.

The nodes that train have room for one worker each, and all else is on the head.
"""

from pathlib import Path

import pytest

from tests.cluster.lab.deployed import deployed_looper
from tests.cluster.test_several_nodes import SETTINGS

pytestmark = pytest.mark.bench

ELASTIC = {
    **SETTINGS,
    "LOOPER_SERVE__REPLICAS": "1",
    "LOOPER_SERVE__GATEWAYS": "1",
    "LOOPER_CLUSTER__CONTROL_LOOPS": "1",
    "LOOPER_CONSOLIDATION__MIN_WORKERS": "1",
    **{f"LOOPER_ROLES__{role}": "steady" for role in ("GATEWAYS", "CONTROL", "ENGINES", "DATA")},
    "LOOPER_ROLES__TRAINERS": "worker",
}


@pytest.mark.timeout(1800)
def test_a_trainer_goes_on_without_a_node(tmp_path: Path) -> None:
    with deployed_looper(tmp_path / "lab", 3, ELASTIC, start_ray=False) as looper:
        head, *trainers = looper.lab.nodes
        head.start_ray(cpus=4, resources={"steady": 1000})
        for node in trainers:
            node.start_ray(head, cpus=1, resources={"worker": 1000})
        looper.up()
        ids = looper.drive("submit", str(looper.base), "2", "200", "first")["ids"]
        assert looper.drive("await-steps", "300", *ids)["steps"] > 0
        trainers[-1].kill()
        ended = looper.drive("wait", "600", *ids, timeout=700)
        assert ended["took_s"], "they have ended, and there was room for one worker only"
        assert ended["states"].get("failed", 0) == 0
        print(f"trained on while a node was away: {ended['took_s']:.0f} s after their submission")
