"""A consolidation whose trainer Ray cannot place says what it waits for, and since when."""

from typing import Any

import pytest
from ray.train import ScalingConfig

from looper.jobs.queue.gpu_wait import describe_gpu_wait

NODES = [
    {"NodeID": "large", "Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0, "accelerator_type:A100": 1.0}},
    {"NodeID": "small", "Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0, "accelerator_type:L4": 1.0}},
    {"NodeID": "gone", "Alive": False, "Resources": {"GPU": 8.0, "accelerator_type:L4": 1.0}},
]


def group(state: str, node: str | None, gpus: float, name: str = "") -> dict[str, Any]:
    return {"state": state, "name": name, "bundles": {0: {"CPU": 0.1, "GPU": gpus}}, "bundles_to_node_id": {0: node}}


def scaling(**more: Any) -> ScalingConfig:
    return ScalingConfig(use_gpu=True, resources_per_worker={"CPU": 0.1, "GPU": 1.0}, **more)


ENGINE = "SERVE_REPLICA::looper#skills-r16#abc"
WAITING = group("PENDING", None, 1.0)


@pytest.mark.parametrize(
    ("asks", "groups", "text"),
    [
        (
            scaling(num_workers=1),
            [WAITING, group("CREATED", "large", 1.0, ENGINE), group("CREATED", "small", 1.0)],
            "1 GPU: engines have 1 of 3, others 1",
        ),
        (
            scaling(num_workers=2, accelerator_type="L4"),
            [WAITING, group("CREATED", "large", 1.0, ENGINE), group("CREATED", "small", 0.5, ENGINE)],
            "2 GPUs of type L4: engines have 0.5 of 1, others 0",
        ),
        (scaling(num_workers=1), [group("CREATED", "small", 1.0)], None),
        (scaling(num_workers=1), [group("PENDING", None, 1.0, ENGINE)], None),
        (scaling(num_workers=1), [group("PENDING", None, 0.0)], None),
    ],
)
def test_gpus_and_who_has_them(asks: ScalingConfig, groups: list[dict[str, Any]], text: str | None) -> None:
    assert describe_gpu_wait(asks, groups, NODES) == text
