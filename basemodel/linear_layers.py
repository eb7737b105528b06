"""The layers of a base model that adapters change: all linear layers of its blocks.

Trainers put adapters on them, engines make room for them, and plans count them. The experts of a mixture are no linear
layers but single tensors, and routers choose experts: both stay as they are.
"""

from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

_ROUTERS = frozenset({"shared_expert_gate"})
"""Linear layers that say how much an expert counts."""

_NOT_SERVED = {"glm": {"gate_up_proj"}, "glm4": {"gate_up_proj"}}
"""By type of model, layers of transformers of which vLLM (0.29) expects the adapters of two layers."""


def find_linear_layers(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """Return the layers of a model that adapters change, by name.

    Args:
        model: The model.
    """
    head = model.get_output_embeddings()
    excluded = _ROUTERS | _NOT_SERVED.get(model.config.model_type, set())
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and name.rpartition(".")[2] not in excluded
    }


def read_layer_shapes(folder: Path) -> tuple[dict[str, tuple[int, int]], int]:
    """Return what adapters on a base model change, without reading its weights. Quantized weights count as they were.

    Args:
        folder: Folder of the base model.

    Returns:
        The shape ``[outputs, inputs]`` of each layer by name, and the number of all parameters of the model.
    """
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    layers = find_linear_layers(model)
    shapes = {name: (layer.out_features, layer.in_features) for name, layer in layers.items()}
    return shapes, sum(parameter.numel() for parameter in model.parameters())
