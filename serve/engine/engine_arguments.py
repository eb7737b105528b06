"""Translates Looper's settings to vLLM's arguments and environment variables.

``skill_replica.SkillReplica`` calls it before it imports vLLM. Plain functions, importable without torch, Ray or vLLM.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from looper.basemodel.vllm_logging import import_vllm_quietly
from looper.platform.adapters.base_revision import TOKENIZER_MODE, Parsers
from looper.platform.domain.errors import InvalidInput
from looper.platform.settings import PoolSettings, ServeSettings, Settings
from looper.platform.settings.gpu_plan import ENGINE_MEMORY, count_gpus
from looper.serve.cpu.cores import BIND_VARIABLE, engine_cores, format_binding, other_cores
from looper.serve.engine.admission import HEADROOM

Device = Literal["cpu", "gpu"]
"""Where an engine computes."""

SUPPORTED_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""vLLM's values for ``max_lora_rank``, except 1: Looper's CPU kernel needs a multiple of eight."""

CPU_MAX_BATCHED_TOKENS = 64
"""Maximum number of tokens in a step on a CPU. Longer steps gain little there, and running requests wait for them."""


_SET_BY_LOOPER = {
    **dict.fromkeys(("model", "tokenizer", "hf_config_path", "served_model_name"), "set LOOPER_BASE"),
    **dict.fromkeys(
        (
            "max_lora_rank",
            "max_loras",
            "max_cpu_loras",
            "max_model_len",
            "max_num_seqs",
            "tool_call_parser",
            "reasoning_parser",
        ),
        "set LOOPER_SERVE__{}",
    ),
    "kv_cache_memory_bytes": "set LOOPER_SERVE__KV_CACHE_GIB",
    "tokenizer_mode": "training renders with the tokenizer of transformers",
    "chat_template": "put a chat_template.jinja into the base model's folder",
    "trust_remote_code": "code of a base model is never run",
    **dict.fromkeys(
        (
            "enable_lora",
            "lora_target_modules",
            "worker_extension_cls",
            "scheduler_cls",
            "scheduling_policy",
            "enable_prompt_tokens_details",
            "structured_outputs_config",
            "enable_auto_tool_choice",
            "logits_processors",
            "distributed_executor_backend",
        ),
        "Looper needs it as it is",
    ),
}
"""Engine arguments that nobody else may set, and what to do instead."""


def check_all_engine_options(settings: Settings) -> None:
    """Check the arguments of vLLM's engines that an operator has set for any base model.

    Args:
        settings: Settings of the cluster.

    Raises:
        InvalidInput: As for ``check_engine_options``.
    """
    for name in settings.base_names:
        check_engine_options(settings.for_base(name).serve.engine)


def check_engine_options(options: Mapping[str, object]) -> None:
    """Check the arguments of vLLM's engines that an operator has set.

    Args:
        options: ``serve.engine`` of the settings.

    Raises:
        InvalidInput: Looper sets one of them, vLLM does not know one, or a number of GPUs is none.
    """
    for name in options:
        if way_out := _SET_BY_LOOPER.get(name):
            raise InvalidInput(f"serve.engine cannot set {name!r}: {way_out.format(name.upper())}")
    count_gpus(options)
    if options:
        with import_vllm_quietly():  # only when needed, because it takes seconds
            from vllm.engine.arg_utils import AsyncEngineArgs

        known = [field.name for field in fields(AsyncEngineArgs)]
        for name in options:
            if name not in known:
                close = get_close_matches(name, known, 1)
                hint = f"do you mean {close[0]!r}?" if close else "see vLLM's documentation of its engine arguments"
                raise InvalidInput(f"serve.engine has {name!r}, which vLLM does not know: {hint}")


def streaming_parser_name(parser: str) -> str:
    """Return the name under which ``tool_parsers`` registers one of vLLM's parsers for tool calls."""
    return f"looper_{parser}"


def has_amx_bfloat16() -> bool:
    """Tell whether this machine's CPU has matrix units for bfloat16 (AMX). Emulated, bfloat16 is three times slower.

    Returns:
        True, if the kernel lists the feature. False, if not, or if it cannot be asked.
    """
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False


@dataclass(frozen=True)
class EngineSettings:
    """How to start one vLLM engine."""

    arguments: dict[str, Any]
    """Arguments of vLLM's engine and of its OpenAI front end, by vLLM's names."""
    environment: dict[str, str]
    """Environment variables of the engine's processes. They must be set before torch is imported."""
    other_cores: set[int]
    """Cores of this machine for processes other than the engine."""


def build_engine_settings(
    serve: ServeSettings,
    pool: PoolSettings,
    slots: int,
    target_modules: list[str],
    device: Device,
    cores: Collection[int],
    parsers: Parsers = Parsers(),  # noqa: B008 (frozen)
    gpu_share: float = 1.0,
    *,
    is_only_engine: bool = True,
) -> EngineSettings:
    """Build the settings of an engine.

    Args:
        serve: Settings of the endpoint.
        pool: Settings of the engine's pool.
        slots: Number of adapters in use at once. The engine gets ``HEADROOM`` more slots.
        target_modules: Names of the layers that adapters change.
        device: Where the engine computes.
        cores: All cores of this machine.
        parsers: How the base model's answers are read.
        gpu_share: Part of a GPU that the engine has.
        is_only_engine: Whether the cluster has no other engine.

    Returns:
        Arguments and environment for vLLM.

    Raises:
        InvalidInput: vLLM does not support the pool's rank.
    """
    rank = next((rank for rank in SUPPORTED_RANKS if rank >= pool.max_lora_rank), None)
    if rank is None:
        raise InvalidInput(
            f"serve.max_lora_rank {pool.max_lora_rank} is above {SUPPORTED_RANKS[-1]}, vLLM's maximum: lower "
            "LOOPER_SERVE__MAX_LORA_RANK"
        )
    arguments: dict[str, Any] = {
        "enable_lora": True,
        "max_lora_rank": rank,
        "max_loras": slots + HEADROOM,
        # Without target modules, each slot also has room for the output head and the embedding.
        "lora_target_modules": target_modules,
        # vLLM's own host cache holds no more than the slots: the pager keeps the other adapters in host memory.
        "max_cpu_loras": slots + HEADROOM,
        "worker_extension_cls": "looper.serve.cache.staging.StagingWorkerExtension",
        "max_model_len": serve.max_model_len,
        "max_num_seqs": serve.seats + HEADROOM,
        # The skill server sets the priorities. Clients cannot.
        "scheduling_policy": "priority",
        "tokenizer_mode": TOKENIZER_MODE,
        # Usage reports how much of a prompt was found in the prefix cache.
        "enable_prompt_tokens_details": True,
        # By default, vLLM validates each request for a backend chosen for it, and then runs all requests on the first
        # request's backend. guidance does not support required tools.
        "structured_outputs_config": {"backend": "xgrammar"},
    }
    if parsers.tool_call_parser:
        # Without knowing how calls begin, only vLLM's own way of streaming them is left.
        name = parsers.tool_call_parser
        name = streaming_parser_name(name) if parsers.tool_call_start else name
        arguments |= {"enable_auto_tool_choice": True, "tool_call_parser": name}
    if parsers.reasoning_parser:
        arguments["reasoning_parser"] = parsers.reasoning_parser
    if device == "gpu":
        environment = {}
        if gpu_share < 1:  # a trainer has the rest
            arguments["gpu_memory_utilization"] = ENGINE_MEMORY * gpu_share
            environment = {"VLLM_RAY_PER_WORKER_GPUS": str(gpu_share)}
        return EngineSettings(arguments | serve.engine, environment, set(cores))
    arguments |= {
        "dtype": "bfloat16" if has_amx_bfloat16() else "float32",
        # Every step reads all of its adapters: bfloat16 halves the bytes.
        "lora_dtype": "bfloat16",
        "enforce_eager": True,
        "scheduler_cls": "looper.serve.cpu.prefill_scheduler.PriorityPrefillScheduler",
        "max_num_batched_tokens": max(CPU_MAX_BATCHED_TOKENS, serve.seats + HEADROOM),
        "kv_cache_memory_bytes": int(serve.kv_cache_gib * 2**30),
    }
    environment = {
        # Ray would set as many threads as CPUs that the replica requested.
        "OMP_NUM_THREADS": str(len(engine_cores(cores))),
        # A single engine is nearly twice as fast if its threads spin for a moment before they sleep. With another
        # engine on the same cores, spinning threads take the core from the thread that they wait for.
        **({"GOMP_SPINCOUNT": "100000"} if is_only_engine else {"OMP_WAIT_POLICY": "PASSIVE"}),
        BIND_VARIABLE: format_binding(cores) if is_only_engine else "nobind",
        # Allocate weights in huge pages, where the kernel allows it: every step reads all weights.
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
        # vLLM compiles its sampler in the step loop, at the first request that samples. That needs a C++ compiler, and
        # seconds in which all requests wait.
        "TORCHDYNAMO_DISABLE": "1",
    }
    return EngineSettings(arguments | serve.engine, environment, other_cores(cores) if is_only_engine else set(cores))
