"""QLoRA's base: linear layers in NF4, four bits a weight, by bitsandbytes (Dettmers et al., 2023, arXiv 2305.14314)."""

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


def quantised(folder: Path, device: Device) -> PreTrainedModel:
    """All but the embedding and the head in NF4. Raises InvalidInput where bitsandbytes is not installed."""
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
        folder, dtype=device.dtype, quantization_config=config, device_map={"": device.place}
    )
    for layer in model.modules():
        # On some CPUs, the first pass without gradients would lay the weights out in a way that has none.
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
    return model


def on_host(model: PreTrainedModel, device: Device) -> PreTrainedModel:
    """``model`` with its weights in the host's memory, each on the device only while its layer computes."""
    offloaded: PreTrainedModel = cpu_offload(model, device.place)
    return offloaded


def rounding(quantised: Mapping[str, nn.Linear], whole: Mapping[str, nn.Linear]) -> float:
    """||W' - W|| / ||W|| over all layers, of the weights W' in NF4 and W as they were."""
    from bitsandbytes.functional import dequantize_4bit

    lost = norm = 0.0
    with torch.no_grad():
        for name, layer in quantised.items():
            w = whole[name].weight.float()
            stored: Any = layer.weight
            rounded = dequantize_4bit(stored, stored.quant_state).to(w)
            lost += float((rounded - w).square().sum())
            norm += float(w.square().sum())
    return math.sqrt(lost / norm)
