"""From Looper's settings to vLLM's: plain functions, importable without torch, Ray or vLLM."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from looper.platform.domain.errors import InvalidInput
from looper.platform.settings import PoolSettings, ServeSettings
from looper.serve.admission import SPARE
from looper.serve.cores import BIND, engines, others, to_bind

Device = Literal["cpu", "gpu"]

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM takes for ``max_lora_rank``, but for 1: our kernel takes eight ranks together."""


CPU_STEP_TOKENS = 64
"""A CPU has little to gain from longer steps, for which those who are answered meanwhile wait."""


def multiplies_bfloat16() -> bool:
    """Whether this machine's CPU has units for matrices in bfloat16 (AMX). Emulated, it is three times slower."""
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False


@dataclass(frozen=True)
class EngineSettings:
    """How one vLLM engine is started."""

    arguments: dict[str, Any]
    """Of vLLM's engine and of its OpenAI front end, under their own names."""
    environment: dict[str, str]
    """For the engine's processes; must be in place before torch is imported."""
    others: set[int]
    """Cores of this machine for what surrounds the engine."""


def engine_settings(
    serve: ServeSettings, pool: PoolSettings, slots: int, adapted: list[str], device: Device, cores: Collection[int]
) -> EngineSettings:
    """An engine of ``pool`` on ``device``, which fills so many slots; ``cores`` are this machine's.

    ``adapted`` is what the layers are called that adapters change.
    """
    rank = next((rank for rank in RANKS if rank >= pool.max_lora_rank), None)
    if rank is None:
        raise InvalidInput(
            f"serve.max_lora_rank {pool.max_lora_rank} is above {RANKS[-1]}, vLLM's largest: lower "
            "LOOPER_SERVE__MAX_LORA_RANK"
        )
    arguments: dict[str, Any] = {
        "enable_lora": True,
        "max_lora_rank": rank,
        "max_loras": slots + SPARE,
        "lora_target_modules": adapted,  # without it, each slot has room for the head and the embedding, too
        "max_cpu_loras": slots + SPARE,  # what else is in memory, the pager has staged
        "worker_extension_cls": "looper.serve.staging.Staging",
        "max_model_len": serve.max_model_len,
        "max_num_seqs": serve.max_num_seqs + SPARE,
        "scheduling_policy": "priority",  # said by the skill server, never by clients
        "enable_prompt_tokens_details": True,  # usage says how much of a prompt came from the cache
        "enable_auto_tool_choice": True,
        "tool_call_parser": "hermes",
        # Left to choose, vLLM checks each request for a backend of its own, and runs all by that of the first. guidance
        # takes no tools that must be called.
        "structured_outputs_config": {"backend": "xgrammar"},
    }
    if device == "gpu":
        return EngineSettings(arguments, {}, set(cores))
    arguments |= {
        "dtype": "bfloat16" if multiplies_bfloat16() else "float32",
        "lora_dtype": "bfloat16",  # read by each step, for each adapter in it: half the bytes
        "enforce_eager": True,
        "scheduler_cls": "looper.serve.scheduler.AheadScheduler",
        # Of prompts, a step reads so many tokens at once at most, as those who are answered meanwhile wait for it.
        "max_num_batched_tokens": max(CPU_STEP_TOKENS, serve.max_num_seqs + SPARE),
        "kv_cache_memory_bytes": int(serve.kv_cache_gib * 2**30),
    }
    alone = serve.most_engines == 1
    environment = {
        # Ray would set one thread per CPU that the replica asked for.
        "OMP_NUM_THREADS": str(len(engines(cores))),
        # An engine alone is nearly twice as fast if its threads spin for a moment before they sleep. Beside another
        # engine on the same cores, threads that spin take the core from whom they wait for.
        **({"GOMP_SPINCOUNT": "100000"} if alone else {"OMP_WAIT_POLICY": "PASSIVE"}),
        BIND: to_bind(cores) if alone else "nobind",
        # Weights in large pages, where the kernel gives them to who asks: a step reads them all.
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
        # vLLM compiles its sampler in the step loop, at the first request that samples: it takes a C++ compiler, and
        # seconds in which everyone waits.
        "TORCHDYNAMO_DISABLE": "1",
    }
    return EngineSettings(arguments, environment, others(cores) if alone else set(cores))
