"""An adapter that does not fit the base model is refused by the name of its layer."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from looper.platform.domain.adapter_digest import WEIGHTS_FILE
from looper.serve.cache.adapter_shapes import check_adapter_fits

LAYERS = {"model.layers.0.self_attn.q_proj": (32, 16), "model.layers.0.mlp.down_proj": (16, 64)}
Q = "base_model.model.model.layers.0.self_attn.q_proj"


def write_adapter(folder: Path, **shapes: tuple[int, ...]) -> Path:
    """Write an adapter of q_proj with the right shapes, except for those that are given."""
    tensors = {f"{Q}.lora_A.weight": (4, 16), f"{Q}.lora_B.weight": (32, 4)} | shapes
    save_file({name: np.zeros(shape) for name, shape in tensors.items()}, folder / WEIGHTS_FILE)
    return folder


def test_an_adapter_that_fits_passes(tmp_path: Path) -> None:
    check_adapter_fits(write_adapter(tmp_path), LAYERS)


@pytest.mark.parametrize(
    ("name", "shape", "problem"),
    [
        (f"{Q}.lora_A.weight", (4, 17), r"the shape \[4, 17\], but this base model's layer has 16 inputs and 32"),
        (f"{Q}.lora_B.weight", (31, 4), r"lora_B\.weight has the shape \[31, 4\]"),
        (f"{Q}.lora_B.weight", (32,), r"has the shape \[32\]"),
        (f"{Q}.lora_magnitude_vector", (32,), "which is not a LoRA layer"),
        ("base_model.model.lm_head.lora_A.weight", (4, 16), "changes lm_head, which is not a LoRA layer"),
        ("x", (1,), "changes x, which is not"),
    ],
)
def test_one_that_does_not_is_refused(name: str, shape: tuple[int, ...], problem: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=problem):
        check_adapter_fits(write_adapter(tmp_path, **{name: shape}), LAYERS)
