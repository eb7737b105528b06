"""Budgets are converted to numbers of adapters, for small layers."""

from pathlib import Path

import pytest

from looper.platform.adapters.base_revision import BASE_MANIFEST, BaseManifest
from looper.platform.domain.errors import InvalidInput
from looper.platform.settings import PoolSettings, ServeSettings
from looper.serve.cache.cache_sizes import (
    expected_distinct_adapters,
    lora_params_per_rank,
    lora_target_modules,
    plan_cache_sizes,
)


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    layers = {"model.layers.0.self_attn.q_proj": (8, 8), "model.layers.0.mlp.down_proj": (8, 24)}
    (tmp_path / BASE_MANIFEST).write_text(BaseManifest(revision="r", layers=layers).model_dump_json())
    return tmp_path


def test_parameters_per_rank_are_the_features_of_the_blocks_linear_layers(model_dir: Path) -> None:
    assert lora_params_per_rank(model_dir) == (8 + 8) + (8 + 24)


def test_adapters_change_the_blocks_linear_layers(model_dir: Path) -> None:
    assert lora_target_modules(model_dir) == ["down_proj", "q_proj"]


def test_a_base_model_without_linear_layers_is_named(tmp_path: Path) -> None:
    (tmp_path / BASE_MANIFEST).write_text(BaseManifest(revision="r").model_dump_json())
    with pytest.raises(InvalidInput, match="has no layers"):
        lora_params_per_rank(tmp_path)


def test_requests_share_popular_adapters() -> None:
    assert expected_distinct_adapters(16, 1) == pytest.approx(1)
    assert expected_distinct_adapters(1, 50) == pytest.approx(1)
    assert expected_distinct_adapters(2, 2) == pytest.approx(1 + 2 * (2 / 3) * (1 / 3))
    assert 13 < expected_distinct_adapters(16, 1000) < 14


def test_budgets_are_counted_in_adapters_of_the_maximum_rank(model_dir: Path) -> None:
    gib = 1536 / 2**30
    pool = PoolSettings(max_lora_rank=16, loras_gib=5 * gib, cpu_loras_gib=10.5 * gib, disk_loras_gib=20 * gib)
    sizes = plan_cache_sizes(ServeSettings(), pool, model_dir)
    assert sizes.adapter_bytes == 16 * 48 * 2
    assert (sizes.slots, sizes.host_memory_adapters, sizes.disk_adapters) == (3, 10, 20)
    assert str(sizes) == "3 slots (0 MiB), 10 adapters in host memory (0 MiB), 20 on disk (0 MiB)"


def test_there_are_no_more_slots_than_a_batch_is_expected_to_need(model_dir: Path) -> None:
    assert (
        plan_cache_sizes(ServeSettings(max_num_seqs=16, expected_adapters=1000), PoolSettings(), model_dir).slots == 14
    )
    assert plan_cache_sizes(ServeSettings(expected_adapters=1), PoolSettings(), model_dir).slots == 1


def test_numbers_in_the_settings_take_precedence(model_dir: Path) -> None:
    sizes = plan_cache_sizes(ServeSettings(), PoolSettings(max_loras=4, max_cpu_loras=2, max_disk_loras=6), model_dir)
    assert (sizes.slots, sizes.host_memory_adapters, sizes.disk_adapters) == (4, 4, 6), (
        "host memory holds at least as many as the slots"
    )
