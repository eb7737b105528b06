"""Write and read an adapter as PEFT's two files, which vLLM loads.

The trainer writes candidates with it, and reads the version that a session continues.
"""

import json

from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load, save

from looper.jobs.consolidation.adapters.lora import Factors, Lora
from looper.platform.adapters import files
from looper.platform.domain.errors import InvalidInput


def serialize_weights(lora: Lora) -> bytes:
    """Return the factors of ``lora`` as a safetensors file, under PEFT's names."""
    tensors = {
        _key(layer, side): tensor.detach().cpu().contiguous()
        for layer, factors in lora.items()
        for side, tensor in (("A", factors.a), ("B", factors.b))
    }
    return save(tensors)


def serialize_config(lora: Lora, base: str) -> bytes:
    """Return PEFT's ``adapter_config.json``.

    Args:
        lora: The adapter, with the same rank and scale in all layers.
        base: Name of the base model. A folder of one machine must not get into the file.
    """
    ((rank, scale),) = {(factors.rank, factors.scale) for factors in lora.values()}
    config = LoraConfig(
        r=rank,
        lora_alpha=scale * rank,  # PEFT and vLLM accept fractions
        target_modules=sorted({layer.rpartition(".")[2] for layer in lora}),
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        inference_mode=True,
    ).to_dict()
    config["target_modules"] = sorted(config["target_modules"])
    return json.dumps(config, sort_keys=True, indent=2, default=str).encode()


def read_adapter_files(weights: bytes, config: bytes) -> dict[str, Factors]:
    """Read the factors from the two files.

    Args:
        weights: Content of ``adapter_model.safetensors``.
        config: Content of ``adapter_config.json``.

    Returns:
        The factors by layer, as plain tensors on the CPU.

    Raises:
        InvalidInput: If the files cannot be read or are not plain LoRA.
    """
    try:
        tensors = load(weights)
        scale = files.LoraConfig.model_validate_json(config).scaling
        layers = [key.removeprefix(_PREFIX).removesuffix(".lora_A.weight") for key in tensors if ".lora_A." in key]
        lora = {layer: Factors(tensors.pop(_key(layer, "A")), tensors.pop(_key(layer, "B")), scale) for layer in layers}
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())  # pydantic's messages have several lines
        raise InvalidInput(f"the adapter's files cannot be read: {type(error).__name__}: {reason}") from error
    if tensors or not lora:
        raise InvalidInput(f"the adapter is not plain LoRA: it holds {next(iter(tensors), 'nothing')}")
    return lora


_PREFIX = "base_model.model."


def _key(layer: str, side: str) -> str:
    return f"{_PREFIX}{layer}.lora_{side}.weight"
