"""Looper's settings become vLLM's."""

import pytest
import torch

from looper.platform.domain.errors import InvalidInput
from looper.platform.settings import PoolSettings, ServeSettings
from looper.serve.cpu.cores import BIND
from looper.serve.engine.engine_arguments import engine_settings

LAYERS = ["q_proj", "down_proj"]


def test_a_cpu_engine_computes_on_all_cores_but_one() -> None:
    engine = engine_settings(ServeSettings(kv_cache_gib=0.5), PoolSettings(), 8, LAYERS, "cpu", range(6))
    assert engine.arguments["kv_cache_memory_bytes"] == 2**29
    assert engine.environment["OMP_NUM_THREADS"] == "5"
    assert engine.environment[BIND] == "1,2,3,4,5"
    assert engine.others == {0}


def test_a_cpu_engine_computes_in_bfloat16_where_the_cpu_multiplies_it() -> None:
    engine = engine_settings(ServeSettings(), PoolSettings(), 8, LAYERS, "cpu", range(2))
    in_hardware = torch.cpu.get_capabilities().get("amx_bf16", False)
    assert engine.arguments["dtype"] == ("bfloat16" if in_hardware else "float32")


def test_threads_of_an_engine_alone_spin_and_those_of_several_sleep() -> None:
    alone = engine_settings(ServeSettings(), PoolSettings(), 8, LAYERS, "cpu", range(2)).environment
    several = engine_settings(ServeSettings(max_replicas=2), PoolSettings(), 8, LAYERS, "cpu", range(2))
    assert "GOMP_SPINCOUNT" in alone
    assert several.environment["OMP_WAIT_POLICY"] == "PASSIVE"
    assert several.environment[BIND] == "nobind"
    assert several.others == {0, 1}, "nobody is kept from any"


def test_a_gpu_engine_keeps_the_model_s_type_and_takes_what_memory_is_free() -> None:
    engine = engine_settings(ServeSettings(), PoolSettings(), 8, LAYERS, "gpu", range(6))
    assert engine.arguments.keys().isdisjoint({"dtype", "enforce_eager", "kv_cache_memory_bytes"})
    assert engine.environment == {}


@pytest.mark.parametrize(("asked", "given"), [(2, 8), (8, 8), (16, 16), (40, 64), (512, 512)])
def test_ranks_are_rounded_up_to_what_vllm_takes(asked: int, given: int) -> None:
    engine = engine_settings(ServeSettings(), PoolSettings(max_lora_rank=asked), 8, LAYERS, "cpu", range(2))
    assert engine.arguments["max_lora_rank"] == given


def test_a_rank_that_no_engine_takes_is_refused() -> None:
    with pytest.raises(InvalidInput, match="max_lora_rank 513 is above 512"):
        engine_settings(ServeSettings(), PoolSettings(max_lora_rank=513), 8, LAYERS, "cpu", range(2))
