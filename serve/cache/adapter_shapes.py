"""Checks that an adapter fits the base model before an engine sees it: vLLM notices in its step loop, or never.

For engines on GPUs. Those on CPUs check the same when they read adapters in their own layout (``cpu/lora_layers``).
"""

from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open

from looper.platform.domain.adapter_digest import WEIGHTS_FILE

_PREFIX = "base_model.model."


def check_adapter_fits(folder: Path, layers: Mapping[str, tuple[int, int]]) -> None:
    """Check the layers of an adapter. Only the header of its file is read.

    Args:
        folder: Folder of the adapter, as PEFT writes it.
        layers: Shape ``[outputs, inputs]`` of each layer of the base model that adapters may change, by name.

    Raises:
        ValueError: The adapter changes another layer, or one with another shape.
    """
    with safe_open(folder / WEIGHTS_FILE, "numpy") as file:
        for name in file.keys():  # noqa: SIM118 (not a dictionary)
            layer, _, factor = name.removeprefix(_PREFIX).partition(".lora_")
            if layer not in layers or factor not in ("A.weight", "B.weight"):
                raise ValueError(f"the adapter changes {layer}, which is not a LoRA layer of this engine")
            shape = file.get_slice(name).get_shape()
            outputs, inputs = layers[layer]
            is_a = factor == "A.weight"
            if len(shape) != 2 or shape[1 if is_a else 0] != (inputs if is_a else outputs):
                raise ValueError(
                    f"the adapter's {name} has the shape {shape}, but this base model's layer has {inputs} inputs and "
                    f"{outputs} outputs"
                )
