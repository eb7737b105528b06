"""Looper's settings are translated to vLLM's."""

import re
from typing import Any

import pytest
import torch

from looper.platform.adapters.base_revision import Parsers
from looper.platform.domain.errors import InvalidInput
from looper.platform.settings import PoolSettings, ServeSettings
from looper.platform.settings.gpu_plan import count_gpus
from looper.serve.cpu.cores import BIND_VARIABLE
from looper.serve.engine.engine_arguments import EngineSettings, build_engine_settings, check_engine_options

TARGET_MODULES = ["q_proj", "down_proj"]


def test_a_cpu_engine_computes_on_all_cores_but_one() -> None:
    engine = build_engine_settings(ServeSettings(kv_cache_gib=0.5), PoolSettings(), 8, TARGET_MODULES, "cpu", range(6))
    assert engine.arguments["kv_cache_memory_bytes"] == 2**29
    assert engine.environment["OMP_NUM_THREADS"] == "5"
    assert engine.environment[BIND_VARIABLE] == "1,2,3,4,5"
    assert engine.other_cores == {0}


def test_a_cpu_engine_uses_bfloat16_where_the_cpu_has_amx() -> None:
    engine = build_engine_settings(ServeSettings(), PoolSettings(), 8, TARGET_MODULES, "cpu", range(2))
    has_amx = torch.cpu.get_capabilities().get("amx_bf16", False)
    assert engine.arguments["dtype"] == ("bfloat16" if has_amx else "float32")


def test_threads_spin_with_one_engine_and_sleep_with_several() -> None:
    single = build_engine_settings(ServeSettings(), PoolSettings(), 8, TARGET_MODULES, "cpu", range(2)).environment
    several = build_engine_settings(
        ServeSettings(), PoolSettings(), 8, TARGET_MODULES, "cpu", range(2), is_only_engine=False
    )
    assert "GOMP_SPINCOUNT" in single
    assert several.environment["OMP_WAIT_POLICY"] == "PASSIVE"
    assert several.environment[BIND_VARIABLE] == "nobind"
    assert several.other_cores == {0, 1}, "no process is kept off any core"


def test_a_gpu_engine_keeps_the_model_s_dtype_and_vllm_s_memory_settings() -> None:
    engine = build_engine_settings(ServeSettings(), PoolSettings(), 8, TARGET_MODULES, "gpu", range(6))
    assert engine.arguments.keys().isdisjoint({"dtype", "enforce_eager", "kv_cache_memory_bytes"})
    assert engine.environment == {}


@pytest.mark.parametrize(("requested", "vllm_rank"), [(2, 8), (8, 8), (16, 16), (40, 64), (512, 512)])
def test_ranks_are_rounded_up_to_one_that_vllm_supports(requested: int, vllm_rank: int) -> None:
    engine = build_engine_settings(
        ServeSettings(), PoolSettings(max_lora_rank=requested), 8, TARGET_MODULES, "cpu", range(2)
    )
    assert engine.arguments["max_lora_rank"] == vllm_rank


def test_an_unsupported_rank_is_refused() -> None:
    with pytest.raises(InvalidInput, match="max_lora_rank 513 is above 512"):
        build_engine_settings(ServeSettings(), PoolSettings(max_lora_rank=513), 8, TARGET_MODULES, "cpu", range(2))


def test_an_engine_gets_what_the_operator_sets_by_vllm_s_names() -> None:
    serve = ServeSettings(engine={"dtype": "float16", "gpu_memory_utilization": 0.5})
    for device in ("cpu", "gpu"):
        arguments = build_engine_settings(serve, PoolSettings(), 8, TARGET_MODULES, device, range(2)).arguments
        assert (arguments["dtype"], arguments["gpu_memory_utilization"]) == ("float16", 0.5)
        assert arguments["tokenizer_mode"] == "hf", "as training renders"
    check_engine_options(serve.engine)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_model_len": 9}, "cannot set 'max_model_len': set LOOPER_SERVE__MAX_MODEL_LEN"),
        ({"model": "other"}, "cannot set 'model': set LOOPER_BASE"),
        ({"scheduler_cls": "x"}, "cannot set 'scheduler_cls': Looper needs it as it is"),
        ({"trust_remote_code": True}, "code of a base model is never run"),
        ({"tensor_parallel_sise": 2}, "which vLLM does not know: do you mean 'tensor_parallel_size'?"),
        ({"tensor_parallel_size": 0}, "tensor_parallel_size is 0, not a number from 1 to 64"),
        ({"tensor_parallel_size": True}, "is True, not a number"),
        ({"pipeline_parallel_size": "2"}, "is '2', not a number"),
        ({"pipeline_parallel_size": 65}, "is 65, not a number"),
    ],
)
def test_an_engine_argument_that_cannot_be_set_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(message)):
        check_engine_options(options)


def test_an_engine_of_several_gpus_counts_them_all() -> None:
    assert count_gpus({}) == 1
    assert count_gpus({"tensor_parallel_size": 64, "pipeline_parallel_size": 2}) == 128


def test_without_the_start_of_calls_vllm_s_own_parser_is_used() -> None:
    parsers = Parsers(tool_call_parser="hermes", reasoning_parser="qwen3")
    engine = build_engine_settings(ServeSettings(), PoolSettings(), 8, TARGET_MODULES, "gpu", range(2), parsers)
    assert engine.arguments["tool_call_parser"] == "hermes"
    assert engine.arguments["reasoning_parser"] == "qwen3"


def test_an_engine_that_shares_a_gpu_fills_its_share() -> None:
    def build(share: float, **engine: float) -> EngineSettings:
        serve = ServeSettings(engine=engine)
        return build_engine_settings(serve, PoolSettings(), 8, TARGET_MODULES, "gpu", range(2), gpu_share=share)

    assert build(0.5).arguments["gpu_memory_utilization"] == pytest.approx(0.45)
    assert build(0.5).environment == {"VLLM_RAY_PER_WORKER_GPUS": "0.5"}
    assert "gpu_memory_utilization" not in build(1).arguments
    assert build(0.5, gpu_memory_utilization=0.3).arguments["gpu_memory_utilization"] == 0.3, "the operator's own"
