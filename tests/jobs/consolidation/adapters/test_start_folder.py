"""Folders that are to become starts: what is plain LoRA of the base model, and what is refused in one line."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from looper.jobs.consolidation.adapters.adapter_file import serialize_config, serialize_weights
from looper.jobs.consolidation.adapters.lora import Factors, Lora
from looper.jobs.consolidation.adapters.start_folder import MAX_CONFIG_BYTES, read_start_folder
from looper.platform.adapters.base_revision import BaseManifest
from looper.platform.adapters.files import AdapterFiles
from looper.platform.adapters.starts import StartManifest
from looper.platform.domain.errors import InvalidInput

LAYERS = {
    "model.layers.0.q_proj": (6, 4),
    "model.layers.1.q_proj": (6, 4),
    "model.layers.0.up_proj": (8, 4),
    "model.layers.1.up_proj": (8, 4),
}
BASE = BaseManifest(revision="r1", layers=LAYERS)


def lora(rank: int = 2, module: str = "_proj", dtype: torch.dtype = torch.float32, first: float = 1.0) -> Lora:
    return {
        layer: Factors(torch.full((rank, inputs), first, dtype=dtype), torch.ones(outputs, rank, dtype=dtype), 2.0)
        for layer, (outputs, inputs) in LAYERS.items()
        if module in layer
    }


def write(folder: Path, adapter: Lora, **config: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(serialize_weights(adapter))
    (folder / "adapter_config.json").write_text(json.dumps(json.loads(serialize_config(adapter, "b")) | config))
    return folder


def read(folder: Path) -> AdapterFiles:
    return read_start_folder(folder, "small", BASE, max_rank=4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_folder_is_taken_as_it_is(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = write(tmp_path / "adapter", lora(dtype=dtype), use_rslora=True)
    found = read(folder)
    assert found.weights == (folder / "adapter_model.safetensors").read_bytes()
    assert found.config == (folder / "adapter_config.json").read_bytes()
    assert StartManifest.model_validate_json(found.manifest) == StartManifest(
        base="small", base_revision="r1", rank=2, target_modules=("q_proj", "up_proj"), adapts_all=True
    )
    about = StartManifest.model_validate_json(read(write(tmp_path / "q", lora(module="q_proj"))).manifest)
    assert (about.target_modules, about.adapts_all) == (("q_proj",), False)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type of adapter_config.json is not that of plain LoRA"),
        ({"use_dora": True}, "use_dora of"),
        ({"bias": "all"}, "bias of"),
        ({"alpha_pattern": {"q_proj": 1}}, "alpha_pattern of"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights of"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens of"),
        ({"lora_alpha": 0}, "lora_alpha of"),
        ({"r": 5}, "rank 5, above serve.max_lora_rank 4"),
        ({"r": 3}, "rank 3 and base model small want"),
    ],
)
def test_what_is_not_plain_lora_is_refused(tmp_path: Path, config: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        read(write(tmp_path / "adapter", lora(), **config))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({**lora(), "model.embed": Factors(torch.ones(2, 4), torch.ones(4, 2), 2.0)}, "changes model.embed, which is"),
        (dict(list(lora().items())[:3]), "does not change model.layers.1.up_proj"),
        ({**lora(), "model.layers.0.q_proj": Factors(torch.ones(2, 5), torch.ones(6, 2), 2.0)}, r"want \(2, 4\) and"),
        (lora(first=float("nan")), "not finite numbers"),
        (lora(first=float("inf")), "not finite numbers"),
        (lora(dtype=torch.float64), "not finite numbers of 16 or 32 bits"),
    ],
)
def test_what_does_not_fit_the_base_model_is_refused(tmp_path: Path, adapter: Lora, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read(write(tmp_path / "adapter", adapter))


def test_missing_large_and_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"adapter_model\.safetensors is not a file: name a folder with"):
        read(tmp_path)
    folder = write(tmp_path / "adapter", lora())
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    good = config.read_bytes()
    for content in (b"", b"{}", b"[]", b"[" * 10_000):
        config.write_bytes(content)
        with pytest.raises(InvalidInput, match=r"adapter_config\.json is not that of plain LoRA"):
            read(folder)
    config.write_bytes(b" " * (MAX_CONFIG_BYTES + 1))
    with pytest.raises(InvalidInput, match="is larger than"):
        read(folder)
    config.write_bytes(good)
    weights.write_bytes(b"\x80\x04pickle")
    with pytest.raises(InvalidInput, match="cannot be read"):
        read(folder)
    weights.write_bytes(save({"base_model.model.lm_head.weight": torch.ones(2, 2)}))
    with pytest.raises(InvalidInput, match="is not plain LoRA: it holds base_model"):
        read(folder)
    weights.write_bytes(b" " * (2 * MAX_CONFIG_BYTES))
    with pytest.raises(InvalidInput, match="is larger than"):
        read(folder)
