"""Generate adapters with random weights, in the shapes that Looper trains: on all linear layers of a base model.

``fixtures`` and ``engine_microbenchmark`` use them, since the benchmarks ignore what the model generates.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

RANK = 16
"""Default rank of the adapters."""


def linear_layer_shapes(model_dir: Path) -> dict[str, tuple[int, int]]:
    """Return the shapes of a base model's linear layers, without reading any weights.

    Args:
        model_dir: Folder of the base model.

    Returns:
        Input and output features of each linear layer except the output head, by name.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model_dir))
    head = model.get_output_embeddings()
    return {
        name: (layer.in_features, layer.out_features)
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and layer is not head
    }


def random_weights(layers: dict[str, tuple[int, int]], seed: int, *, rank: int = RANK, scale: float = 1.0) -> bytes:
    """Generate the weights of an adapter.

    Args:
        layers: Input and output features of each layer, by name.
        seed: Seed of the weights.
        rank: Rank of the adapter.
        scale: Factor of the ``lora_B`` matrices.

    Returns:
        A safetensors file in bfloat16 with PEFT's names: ``lora_A`` is ``[rank, in]``, ``lora_B`` is ``[out, rank]``.
    """
    random = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name, (inputs, outputs) in layers.items():
        a = torch.randn(rank, inputs, generator=random) * inputs**-0.5
        b = torch.randn(outputs, rank, generator=random) * scale * rank**-0.5
        tensors[f"base_model.model.{name}.lora_A.weight"] = a.bfloat16()
        tensors[f"base_model.model.{name}.lora_B.weight"] = b.bfloat16()
    return save(tensors)


def adapter_config(layers: dict[str, tuple[int, int]], base: str, *, rank: int = RANK) -> bytes:
    """Create the ``adapter_config.json`` of an adapter.

    Args:
        layers: The adapted layers, by name.
        base: Name of the base model.
        rank: Rank of the adapter.

    Returns:
        The file's content.
    """
    return json.dumps(
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": rank,
            "lora_alpha": rank,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": sorted({name.rpartition(".")[2] for name in layers}),
        }
    ).encode()
