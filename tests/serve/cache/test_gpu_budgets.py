"""What is left open for engines on GPUs follows from the memory of the GPU, the weights and Zipf's law."""

import json
from pathlib import Path

import pytest

from looper.platform.adapters.base_revision import BASE_MANIFEST, BaseManifest
from looper.platform.domain.errors import InvalidInput
from looper.platform.settings import PoolSettings, ServeSettings
from looper.serve.cache.cache_sizes import plan_cache_sizes
from looper.serve.cache.gpu_budgets import GpuMachine, count_kv_bytes, count_weight_bytes, fit_to_gpu

GIB = 2**30
H100 = GpuMachine(gpu_bytes=80 * GIB, gpus=1, memory_bytes=400 * GIB, disk_bytes=1000 * GIB)
LLAMA = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}
WIDTHS = {"q": (4096, 4096), "k": (1024, 4096), "v": (1024, 4096), "o": (4096, 4096)}
MLP = {"gate": (14336, 4096), "up": (14336, 4096), "down": (4096, 14336)}


def write_base(folder: Path, config: dict[str, object] = LLAMA) -> Path:
    """Write what is read of a base of the shape of Llama-3.1-8B."""
    layers = {f"{layer}.{name}_proj": shape for layer in range(32) for name, shape in (WIDTHS | MLP).items()}
    manifest = BaseManifest(revision="r", layers=layers, parameters=8_030_261_248)
    (folder / BASE_MANIFEST).write_text(manifest.model_dump_json())
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_an_engine_beside_a_trainer_fills_its_half(tmp_path: Path) -> None:
    folder = write_base(tmp_path)
    assert count_kv_bytes(folder) == 128 * 1024
    assert count_weight_bytes(ServeSettings(), folder) == 2 * 8_030_261_248
    serve = ServeSettings(max_model_len=2048)
    chosen = fit_to_gpu(serve, serve, 0.5, folder, H100)
    left = 36 - 2 * 8_030_261_248 / GIB
    assert chosen["loras_gib"] == pytest.approx(left * 0.2)
    assert chosen["max_num_seqs"] == 134
    assert chosen["cpu_loras_gib"] == pytest.approx(50), "two engines of half a GPU would fit"
    assert chosen["disk_loras_gib"] == pytest.approx(125)
    sizes = plan_cache_sizes(serve.model_copy(update=chosen), serve.model_copy(update=chosen), folder)
    assert sizes.slots * sizes.adapter_bytes <= chosen["loras_gib"] * GIB


def test_what_the_settings_say_stays(tmp_path: Path) -> None:
    serve = ServeSettings(max_num_seqs=40, loras_gib=2, engine={"gpu_memory_utilization": 0.8})
    pool = PoolSettings(loras_gib=3)
    chosen = fit_to_gpu(serve, pool, 1, write_base(tmp_path), H100)
    assert set(chosen) == {"cpu_loras_gib", "disk_loras_gib"}


@pytest.mark.parametrize(("quantization", "gib", "seqs"), [("fp8", 8.46, 176), ("bitsandbytes", 5.86, 192)])
def test_weights_that_engines_quantize_leave_more_room(
    tmp_path: Path, quantization: str, gib: float, seqs: int
) -> None:
    serve, folder = ServeSettings(engine={"quantization": quantization}), write_base(tmp_path)
    assert count_weight_bytes(serve, folder) / GIB == pytest.approx(gib, abs=0.01)
    assert fit_to_gpu(serve, serve, 0.5, folder, H100)["max_num_seqs"] == seqs


def test_the_number_of_sequences_has_bounds(tmp_path: Path) -> None:
    folder = write_base(tmp_path)
    short, long = ServeSettings(max_model_len=64), ServeSettings(max_model_len=131_072)
    assert fit_to_gpu(short, short, 1, folder, H100)["max_num_seqs"] == 256
    assert fit_to_gpu(long, long, 1, folder, H100)["max_num_seqs"] == 16


def test_a_base_that_does_not_fit_is_refused_with_the_way_out(tmp_path: Path) -> None:
    folder, serve = write_base(tmp_path), ServeSettings()
    small = GpuMachine(gpu_bytes=16 * GIB, gpus=1, memory_bytes=GIB, disk_bytes=GIB)
    with pytest.raises(InvalidInput, match=r"take 15\.0 GiB, and an engine has 7\.2 GiB of GPU memory: raise"):
        fit_to_gpu(serve, serve, 0.5, folder, small)
    over_four = ServeSettings(engine={"tensor_parallel_size": 4})
    assert fit_to_gpu(over_four, over_four, 0.5, folder, small)["max_num_seqs"] >= 16
    with pytest.raises(InvalidInput, match=r"gpu_memory_utilization is 'much'"):
        fit_to_gpu(ServeSettings(engine={"gpu_memory_utilization": "much"}), serve, 1, folder, H100)


def test_a_config_with_a_part_for_text_is_read(tmp_path: Path) -> None:
    text = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64, "head_dim": 32}
    assert count_kv_bytes(write_base(tmp_path, config={"text_config": text})) == 2 * 2 * 2 * 4 * 32
