"""Packed adapters on a CPU engine's disk, compared with PEFT's factors."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from looper.platform.adapters import AdapterFiles
from looper.platform.domain.errors import InvalidInput
from looper.serve.cpu.kernel_layout import PACKED_FILE, pack_adapter, read_packed_adapter

LAYERS = {"q": (24, 32), "down": (40, 24)}


def make_factors(rank: int, dtype: torch.dtype) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(rank)
    return {
        f"{layer}.lora_{which}.weight": torch.randn(*shape, generator=random).to(dtype)
        for layer, (inputs, outputs) in LAYERS.items()
        for which, shape in (("A", (rank, inputs)), ("B", (outputs, rank)))
    }


def make_files(tensors: dict[str, Tensor], **config: object) -> AdapterFiles:
    return AdapterFiles(save(tensors), json.dumps(config).encode(), b"{}")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("rank", "config", "scale"),
    [(8, {"lora_alpha": 8}, 1.0), (16, {"lora_alpha": 24}, 1.5), (4, {"lora_alpha": 6, "use_rslora": True}, 3.0)],
    ids=str,
)
def test_a_packed_adapter_holds_the_scaled_factors(
    tmp_path: Path, dtype: torch.dtype, rank: int, config: dict[str, object], scale: float
) -> None:
    tensors = make_factors(rank, dtype)
    (tmp_path / PACKED_FILE).write_bytes(pack_adapter(make_files(tensors, r=rank, **config)))
    shapes, bits = read_packed_adapter(tmp_path)
    numbers = torch.from_numpy(bits.view("int16")).view(torch.bfloat16)
    assert bits.ctypes.data % 64 == 0
    assert {shape.layer: (shape.inputs, shape.outputs) for shape in shapes} == LAYERS
    for shape in shapes:
        sizes = [shape.rank * shape.inputs, shape.rank * shape.outputs]
        a, b, numbers = numbers.split([*sizes, len(numbers) - sum(sizes)])
        a, b = a.view(shape.rank, -1), b.view(shape.rank, -1)
        assert shape.rank % 8 == 0
        assert not a[rank:].any(), "the rank is padded with zeros"
        assert not b[rank:].any(), "the rank is padded with zeros"
        assert torch.equal(a[:rank], tensors[f"{shape.layer}.lora_A.weight"].bfloat16())
        assert torch.equal(b[:rank], (tensors[f"{shape.layer}.lora_B.weight"].float() * scale).bfloat16().t())
    assert not len(numbers)


@pytest.mark.parametrize(
    "broken",
    [
        make_files({**make_factors(8, torch.float32), "q.lora_magnitude_vector": torch.ones(32)}, r=8, lora_alpha=8),
        make_files({"q.lora_A.weight": torch.ones(8, 24)}, r=8, lora_alpha=8),
        make_files({name: tensor.int() for name, tensor in make_factors(8, torch.float32).items()}, r=8, lora_alpha=8),
        make_files(make_factors(8, torch.float32), r=8),
        replace(make_files({}, r=8, lora_alpha=8), weights=b"no tensors"),
        replace(f := make_files(make_factors(8, torch.float32), r=8, lora_alpha=8), weights=f.weights[:-1]),
    ],
    ids=["a vector", "without B", "integers", "without alpha", "no tensors", "truncated"],
)
def test_other_tensors_than_lora_factors_are_refused(broken: AdapterFiles) -> None:
    with pytest.raises(InvalidInput, match=broken.digest):
        pack_adapter(broken)
