"""What engines ask Ray for."""

import re
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


def test_each_base_model_has_pools_of_its_own(tmp_path: Path) -> None:
    further = [
        {"base": "org/Large.1", "serve": {"max_lora_rank": 8, "pools": [{"max_lora_rank": 64}]}},
        {"base": "other/large-1"},
    ]
    settings = load_settings(base="small", bases=further)
    sources = {name: BaseModelSource(tmp_path / str(number)) for number, name in enumerate(settings.base_names)}
    _, by_base, *_ = build_app(settings, sources, GpuPlan(0, 0))._bound_deployment.init_args
    names = {base: [pool._bound_deployment.name for pool in pools.values()] for base, pools in by_base.items()}
    large, other = names.pop("org/Large.1"), names.pop("other/large-1")
    assert names == {"small": ["skills-r16"]}
    assert [re.sub("-[0-9a-f]{6}-", "-X-", name) for name in (*large, *other)] == [
        "skills-large-1-X-r8",
        "skills-large-1-X-r64",
        "skills-large-1-X-r16",
    ]
    assert large[0].split("-")[3] != other[0].split("-")[3], "bases with the same last name are told apart"
    for base, pools in by_base.items():
        for pool in pools.values():
            mine, _, source, _ = pool._bound_deployment.init_args
            assert (mine.base, source) == (base, sources[base])
