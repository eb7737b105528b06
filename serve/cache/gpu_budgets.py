"""Chooses what the settings leave open for engines on GPUs: sequences in a batch, and room for adapters.

``deployment/gpu_defaults`` measures a machine with GPUs and applies this. Importable without torch, Ray or vLLM.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from looper.platform.adapters.base_revision import read_base_manifest
from looper.platform.domain.errors import InvalidInput
from looper.platform.settings import PoolSettings, ServeSettings
from looper.platform.settings.gpu_plan import ENGINE_MEMORY, count_gpus

MIN_SEQS, MAX_SEQS = 16, 256
"""Bounds of the number of sequences in a batch that is chosen. vLLM's own default is 256."""

EXPECTED_CONTEXT = 0.5
"""Part of ``max_model_len`` that a sequence is expected to fill. vLLM takes sequences back if they need more."""

BYTES_PER_WEIGHT = {"fp8": 1.0, "bitsandbytes": 0.6}
"""Size of a weight that engines quantize when they load it, in bytes, by ``quantization`` in ``serve.engine``."""

LORA_SHARE = 0.2
"""Largest part for adapter slots of the device memory that the weights leave; the rest is KV cache."""

MACHINE_SHARE = 0.25
"""Part of the free host memory and disk of a machine for its engines' adapters. Trainers and Ray need the rest."""


@dataclass(frozen=True)
class GpuMachine:
    """A machine with GPUs."""

    gpu_bytes: int
    """Memory of one GPU."""
    gpus: int
    """Number of GPUs."""
    memory_bytes: int
    """Free host memory."""
    disk_bytes: int
    """Free disk space for adapters."""


def fit_to_gpu(
    serve: ServeSettings, pool: PoolSettings, share: float, model_dir: Path, machine: GpuMachine
) -> dict[str, Any]:
    """Choose what the settings of a pool leave open.

    Args:
        serve: Settings of the endpoint.
        pool: Settings of the pool.
        share: Part of each of an engine's GPUs that is the engine's.
        model_dir: Folder of the base model.
        machine: The machine that engines of the pool run on.

    Returns:
        Values of the pool's settings, and ``max_num_seqs``, by name: those that the settings leave open.

    Raises:
        InvalidInput: The weights do not fit into the engine's memory.
    """
    gpus = count_gpus(serve.engine)
    utilization = serve.engine.get("gpu_memory_utilization", ENGINE_MEMORY * share)
    if not isinstance(utilization, int | float) or not 0 < utilization <= 1:
        raise InvalidInput(f"serve.engine: gpu_memory_utilization is {utilization!r}, not a number above 0 and up to 1")
    memory, weights = int(utilization * machine.gpu_bytes * gpus), count_weight_bytes(serve, model_dir)
    left = memory - weights
    if left <= 0:
        raise InvalidInput(
            f"the weights of the base model take {weights / 2**30:.1f} GiB, and an engine has {memory / 2**30:.1f} GiB "
            "of GPU memory: raise serve.engine.tensor_parallel_size, or choose a quantized or smaller base"
        )
    engines = max(1, int(machine.gpus / (gpus * share)))
    sequence = EXPECTED_CONTEXT * serve.max_model_len * count_kv_bytes(model_dir)
    seqs = int(left * (1 - LORA_SHARE) / sequence)
    chosen: dict[str, Any] = {
        "max_num_seqs": min(max(seqs, MIN_SEQS), MAX_SEQS),
        "loras_gib": left * LORA_SHARE / 2**30,
        "cpu_loras_gib": machine.memory_bytes * MACHINE_SHARE / engines / 2**30,
        "disk_loras_gib": machine.disk_bytes * MACHINE_SHARE / engines / 2**30,
    }
    given = serve.model_dump(include={"max_num_seqs"}) | pool.model_dump(exclude={"max_num_seqs"})
    return {name: value for name, value in chosen.items() if given[name] is None}


def count_weight_bytes(serve: ServeSettings, model_dir: Path) -> int:
    """Return the size of the base model's weights in an engine.

    Args:
        serve: Settings of the endpoint, which may let engines quantize the weights.
        model_dir: Folder of the base model.

    Returns:
        Number of bytes. vLLM computes with bfloat16 where nothing else is said, also if the files hold float32.
    """
    manifest = read_base_manifest(model_dir)
    quantized = BYTES_PER_WEIGHT.get(str(serve.engine.get("quantization")), 2.0)
    in_layers = sum(outputs * inputs for outputs, inputs in manifest.layers.values())
    return int(quantized * in_layers + 2 * (manifest.parameters - in_layers))


def count_kv_bytes(model_dir: Path) -> int:
    """Return the size of a token in the KV cache, in bytes: a key and a value in bfloat16 for each layer.

    Args:
        model_dir: Folder of the base model.

    Returns:
        Number of bytes.
    """
    config = json.loads((model_dir / "config.json").read_text())
    config = config.get("text_config") or config
    heads = config["num_attention_heads"]
    head_size = config.get("head_dim") or config["hidden_size"] // heads
    return 2 * 2 * int(config["num_hidden_layers"] * (config.get("num_key_value_heads") or heads) * head_size)
