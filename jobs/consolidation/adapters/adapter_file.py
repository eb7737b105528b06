"""An adapter as PEFT's two files, which vLLM loads."""

import json

from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load, save

from looper.jobs.consolidation.adapters.lora import Factors, Lora
from looper.platform.domain.errors import InvalidInput


def weights_bytes(lora: Lora) -> bytes:
    """The factors as safetensors, under the names that PEFT gives them."""
    tensors = {
        _key(layer, side): tensor.detach().cpu().contiguous()
        for layer, factors in lora.items()
        for side, tensor in (("A", factors.a), ("B", factors.b))
    }
    return save(tensors)


def config_bytes(lora: Lora, base: str) -> bytes:
    """PEFT's ``adapter_config.json``, naming the base as ``base`` and no folder of a machine."""
    ((rank, scale),) = {(factors.rank, factors.scale) for factors in lora.values()}
    config = LoraConfig(
        r=rank,
        lora_alpha=scale * rank,  # PEFT and vLLM take fractions, too
        target_modules=sorted({layer.rpartition(".")[2] for layer in lora}),
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        inference_mode=True,
    ).to_dict()
    config["target_modules"] = sorted(config["target_modules"])
    return json.dumps(config, sort_keys=True, indent=2, default=str).encode()


def read(weights: bytes, config: bytes) -> dict[str, Factors]:
    """The factors that the two files hold, as plain tensors. Raises InvalidInput if they are not plain LoRA."""
    try:
        tensors = load(weights)
        settings = json.loads(config)
        scale = settings["lora_alpha"] / settings["r"]
        layers = [key.removeprefix(_PREFIX).removesuffix(".lora_A.weight") for key in tensors if ".lora_A." in key]
        lora = {layer: Factors(tensors.pop(_key(layer, "A")), tensors.pop(_key(layer, "B")), scale) for layer in layers}
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise InvalidInput(f"the adapter's files cannot be read: {type(error).__name__}: {error}") from error
    if tensors or not lora:
        raise InvalidInput(f"the adapter is not plain LoRA: it holds {next(iter(tensors), 'nothing')}")
    return lora


_PREFIX = "base_model.model."


def _key(layer: str, side: str) -> str:
    return f"{_PREFIX}{layer}.lora_{side}.weight"
