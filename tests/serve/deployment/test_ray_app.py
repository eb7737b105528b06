"""What engines ask Ray for."""

from pathlib import Path

import pytest
from ray import serve

from looper.basemodel.node_copies import BaseModelSource
from looper.platform.settings import load_settings
from looper.platform.settings.gpu_plan import GpuPlan
from looper.serve.deployment.ray_app import build_app


def find_bundles(app: serve.Application) -> list[dict[str, float]]:
    """Return the bundles of the only pool."""
    [pool] = find_pools(app).values()
    return pool


def find_pools(app: serve.Application) -> dict[int, list[dict[str, float]]]:
    """Return the bundles of each pool, by its rank."""
    _, by_base, *_ = app._bound_deployment.init_args
    (pools,) = by_base.values()
    return {rank: list(pool._bound_deployment._replica_config.placement_group_bundles) for rank, pool in pools.items()}


@pytest.mark.parametrize(
    ("plan", "engine", "bundles"),
    [
        (GpuPlan(0, 0), {}, [{"CPU": 1}]),
        (GpuPlan(1, 1), {}, [{"CPU": 1, "GPU": 1}]),
        (GpuPlan(0.5, 0.5), {}, [{"CPU": 1, "GPU": 0.5}]),
        (GpuPlan(1, 1), {"tensor_parallel_size": 3}, [{"CPU": 1, "GPU": 1}, {"GPU": 1}, {"GPU": 1}]),
        (GpuPlan(1, 1), {"pipeline_parallel_size": 2}, [{"CPU": 1, "GPU": 1}, {"GPU": 1}]),
    ],
)
def test_an_engine_gets_its_gpus(
    plan: GpuPlan, engine: dict[str, int], bundles: list[dict[str, float]], tmp_path: Path
) -> None:
    settings = load_settings(serve={"engine": engine})
    assert find_bundles(build_app(settings, {settings.base: BaseModelSource(tmp_path)}, plan)) == bundles


def test_a_pool_gets_gpus_of_its_type(tmp_path: Path) -> None:
    settings = load_settings(
        serve={"accelerator_type": "A100", "pools": [{"max_lora_rank": 64, "accelerator_type": "L4"}]}
    )
    assert find_pools(
        build_app(settings, {settings.base: BaseModelSource(tmp_path)}, GpuPlan(0.5, 0.5, frozenset({"A100"})))
    ) == {
        16: [{"CPU": 1, "GPU": 1, "accelerator_type:A100": 0.001}],
        64: [{"CPU": 1, "GPU": 0.5, "accelerator_type:L4": 0.001}],
    }
