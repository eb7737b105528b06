"""Looper on a Ray over three nodes with addresses of their own: brought up, asked, trained, and asked again."""

from pathlib import Path

import pytest

from tests.cluster.lab.deployed import WorkerNode, deployed_looper

pytestmark = pytest.mark.bench

SETTINGS = {
    "LOOPER_SERVE__REPLICAS": "2",
    "LOOPER_SERVE__GATEWAYS": "2",
    "LOOPER_SERVE__MAX_LORA_RANK": "8",
    "LOOPER_SERVE__MAX_MODEL_LEN": "512",
    "LOOPER_SERVE__KV_CACHE_GIB": "0.1",
    "LOOPER_SERVE__LORAS_GIB": "0.05",
    "LOOPER_SERVE__CPU_LORAS_GIB": "0.05",
    "LOOPER_SERVE__DISK_LORAS_GIB": "0.1",
    "LOOPER_CONSOLIDATION__NUM_WORKERS": "2",
    "LOOPER_CLUSTER__CONTROL_LOOPS": "2",
}


@pytest.mark.timeout(3600)
def test_three_nodes_serve_and_train(tmp_path: Path) -> None:
    with deployed_looper(tmp_path / "lab", [WorkerNode()] * 2, SETTINGS) as looper:
        looper.drive("publish", str(looper.base))
        urls = looper.up()
        assert looper.drive("ask", "1000", "8", *urls)["outcomes"] == {"right": 1000}
        looper.drive("submit", str(looper.base), "4")
        ended = looper.drive("wait", "900", timeout=1000)["states"]
        assert ended.get("failed", 0) == 0
        looper.looper("down", "--address", f"{looper.operator.address}:6379")
