"""Adapters for the benchmark: random weights in the shape that Looper trains, on all linear layers of a base model.

Their files differ, as adapters' do; what they say does not matter.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

RANK = 16


def shapes(model_dir: Path) -> dict[str, tuple[int, int]]:
    """In and out features of each linear layer in the blocks, by name; no weights are read."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model_dir))
    head = model.get_output_embeddings()
    return {
        name: (layer.in_features, layer.out_features)
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and layer is not head
    }


def weights(layers: dict[str, tuple[int, int]], seed: int, *, rank: int = RANK, scale: float = 1.0) -> bytes:
    """A safetensors file in bfloat16, as PEFT names its tensors."""
    random = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name, (inputs, outputs) in layers.items():
        a = torch.randn(rank, inputs, generator=random) * inputs**-0.5
        b = torch.randn(outputs, rank, generator=random) * scale * rank**-0.5
        tensors[f"base_model.model.{name}.lora_A.weight"] = a.bfloat16()
        tensors[f"base_model.model.{name}.lora_B.weight"] = b.bfloat16()
    return save(tensors)


def config(layers: dict[str, tuple[int, int]], base: str, *, rank: int = RANK) -> bytes:
    """The ``adapter_config.json`` beside it."""
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
