"""The base model of QLoRA: linear layers in NF4, four bits per weight, by bitsandbytes.

Dettmers et al., 2023 (arXiv 2305.14314). ``SharedBase`` uses these functions; a trainer of shape ``nf4`` passes
``load_quantized`` to it.
"""

import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import cpu_offload
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from looper.jobs.consolidation.model.device import Device
from looper.platform.domain.errors import InvalidInput


def load_quantized(folder: Path, device: Device) -> PreTrainedModel:
    """Load a base model with everything but the embedding and the head in NF4.

    Args:
        folder: Folder of the base model.
        device: Where to load it, and the number format of its computations.

    Returns:
        The model.

    Raises:
        InvalidInput: If bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise InvalidInput(
            "method 'qlora' needs the package bitsandbytes, which is not installed where trainers run: install it "
            "there or choose method 'lora'"
        )
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=device.dtype,
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=device.dtype, quantization_config=config, device_map={"": device.torch_device}
    )
    for layer in model.modules():
        # On some CPUs, the first pass without gradients would convert the weights to a layout without a backward pass.
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
    return model


def offload_to_host(model: PreTrainedModel, device: Device) -> PreTrainedModel:
    """Keep the weights of a model in host memory. A layer is on the device only while it computes.

    Args:
        model: The model.
        device: Where the layers compute.

    Returns:
        ``model``.
    """
    offloaded: PreTrainedModel = cpu_offload(model, device.torch_device)
    return offloaded


def quantization_error(quantized: Mapping[str, nn.Linear], original: Mapping[str, nn.Linear]) -> float:
    """Return ||W' - W|| / ||W|| over all layers.

    Args:
        quantized: Layers with the weights W' in NF4, by name.
        original: The same layers with the weights W before quantization.

    Returns:
        The relative error in the Frobenius norm.
    """
    from bitsandbytes.functional import dequantize_4bit

    squared_error = squared_norm = 0.0
    with torch.no_grad():
        for name, layer in quantized.items():
            w = original[name].weight.float()
            stored: Any = layer.weight
            dequantized = dequantize_4bit(stored, stored.quant_state).to(w)
            squared_error += float((dequantized - w).square().sum())
            squared_norm += float(w.square().sum())
    return math.sqrt(squared_error / squared_norm)
