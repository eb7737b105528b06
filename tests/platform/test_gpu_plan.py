"""GPUs are divided between engines and trainers."""

from typing import Any

import pytest

from looper.platform.domain.errors import InvalidInput
from looper.platform.settings import load_settings
from looper.platform.settings.gpu_plan import GpuPlan, plan_gpus


@pytest.mark.parametrize(
    ("gpus", "serve", "training", "plan"),
    [
        (0, {}, {}, GpuPlan(0, 0)),
        (1, {}, {}, GpuPlan(0.5, 0.5)),
        (2, {}, {}, GpuPlan(1, 1)),
        (2, {"replicas": 2}, {}, GpuPlan(0.5, 0.5)),
        (3, {"engine": {"tensor_parallel_size": 2}}, {}, GpuPlan(1, 1)),
        (8, {"replicas": 4, "pools": [{"max_lora_rank": 64, "replicas": 2}]}, {"num_workers": 2}, GpuPlan(1, 1)),
    ],
)
def test_there_are_whole_gpus_if_there_are_enough(gpus: float, serve: Any, training: Any, plan: GpuPlan) -> None:
    assert plan_gpus(gpus, load_settings(serve=serve, consolidation=training)) == plan


@pytest.mark.parametrize(
    ("gpus", "serve", "training", "message"),
    [
        (1, {"replicas": 2}, {}, "the engines need 2 GPUs, and the cluster has 1: lower serve.replicas"),
        (1, {"engine": {"pipeline_parallel_size": 2}}, {}, "the engines need 2 GPUs"),
        (1, {}, {"num_workers": 2}, "engines and trainers need 3 GPUs, and the cluster has 1: lower consolidation"),
        (1, {}, {"max_trainers": 2}, "engines and trainers need 3 GPUs"),
    ],
)
def test_too_few_gpus_are_refused_by_name(gpus: float, serve: Any, training: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        plan_gpus(gpus, load_settings(serve=serve, consolidation=training))


def test_the_plan_is_told_in_words() -> None:
    assert str(GpuPlan(0.5, 0.5)).startswith("engines and trainers share GPUs: 50% of each for an engine")
    assert "of their own" in str(GpuPlan(1, 1))
    assert "no GPU" in str(GpuPlan(0, 0))
