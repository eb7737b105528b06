"""Reads the folder of an adapter that is to become a start, and checks that training on a base model can begin from it.

``looper starts add`` calls it. Whatever wrote the folder, only plain LoRA comes out of it.
"""

from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, ValidationError

from looper.jobs.consolidation.adapters.adapter_file import read_adapter_files
from looper.jobs.consolidation.adapters.lora import Lora
from looper.platform.adapters import files
from looper.platform.adapters.base_revision import BaseManifest
from looper.platform.adapters.starts import StartManifest
from looper.platform.domain.adapter_digest import CONFIG_FILE, WEIGHTS_FILE
from looper.platform.domain.errors import InvalidInput

MAX_CONFIG_BYTES = 2**20
"""Maximum size of ``adapter_config.json`` and of the header of the weights."""

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class _PlainLoraConfig(files.LoraConfig):
    """The fields of ``adapter_config.json`` that change what the factors mean, with the values of plain LoRA."""

    peft_type: Literal["LORA"]
    lora_alpha: float = Field(gt=0, allow_inf_nan=False)
    bias: Literal["none"] = "none"
    use_dora: Literal[False] = False
    rank_pattern: dict[str, int] | None = Field(None, max_length=0)
    alpha_pattern: dict[str, float] | None = Field(None, max_length=0)
    modules_to_save: list[str] | None = Field(None, max_length=0)
    alora_invocation_tokens: list[int] | None = Field(None, max_length=0)
    # The other ways to initialize an adapter change the base model's weights, too.
    init_lora_weights: bool | Literal["gaussian", "eva", "orthogonal"] = True


def read_start_folder(folder: Path, base: str, manifest: BaseManifest, max_rank: int) -> files.AdapterFiles:
    """Read a folder with PEFT's two files, and check them.

    Args:
        folder: The folder.
        base: Base model, as the settings name it.
        manifest: The base model's manifest.
        max_rank: Largest rank that a start may have.

    Returns:
        The two files as they are, with the manifest of a start.

    Raises:
        InvalidInput: A file is missing or too large, or it is not plain LoRA of this base model.
    """
    most_weights = max_rank * sum(map(sum, manifest.layers.values())) * torch.float32.itemsize + MAX_CONFIG_BYTES
    weights = _read_file(folder / WEIGHTS_FILE, most_weights)
    config = _read_file(folder / CONFIG_FILE, MAX_CONFIG_BYTES)
    rank = _check_config(config, max_rank)
    lora = read_adapter_files(weights, config)
    _check_layers(lora, rank, base, manifest)
    modules = {_module_of(layer) for layer in lora}
    about = StartManifest(
        base=base,
        base_revision=manifest.revision,
        rank=rank,
        target_modules=tuple(sorted(modules)),
        adapts_all=modules == {_module_of(layer) for layer in manifest.layers},
    )
    return files.AdapterFiles(weights, config, about.to_bytes())


def _read_file(path: Path, max_bytes: int) -> bytes:
    if not path.is_file():
        raise InvalidInput(f"{path} is not a file: name a folder with {WEIGHTS_FILE} and {CONFIG_FILE}, as PEFT saves")
    if path.stat().st_size > max_bytes:
        raise InvalidInput(f"{path} is larger than {max_bytes} bytes, the most that a start of this base model takes")
    return path.read_bytes()


def _check_config(config: bytes, max_rank: int) -> int:
    """Return the rank in ``adapter_config.json``. Raises InvalidInput if that is not the config of plain LoRA."""
    try:
        rank = _PlainLoraConfig.model_validate_json(config).r
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = f"{first['loc'][0]} of " if first["loc"] else ""
        raise InvalidInput(f"{field}{CONFIG_FILE} is not that of plain LoRA: {first['msg']}") from error
    if rank > max_rank:
        raise InvalidInput(f"the adapter has rank {rank}, above serve.max_lora_rank {max_rank}: give one of less rank")
    return rank


def _check_layers(lora: Lora, rank: int, base: str, manifest: BaseManifest) -> None:
    modules = {_module_of(layer) for layer in lora}
    wanted = {layer for layer in manifest.layers if _module_of(layer) in modules}
    if unknown := sorted(lora.keys() - wanted):
        raise InvalidInput(
            f"the adapter changes {unknown[0]}, which is no layer of base model {base} that adapters change"
        )
    if missing := sorted(wanted - lora.keys()):
        raise InvalidInput(
            f"the adapter does not change {missing[0]}: it has to change all layers of that name or none"
        )
    for layer, factors in lora.items():
        outputs, inputs = manifest.layers[layer]
        shapes = tuple(factors.a.shape), tuple(factors.b.shape)
        if shapes != ((rank, inputs), (outputs, rank)):
            raise InvalidInput(
                f"the adapter's factors of {layer} have the shapes {shapes[0]} and {shapes[1]}: rank {rank} and base "
                f"model {base} want {(rank, inputs)} and {(outputs, rank)}"
            )
        for factor in (factors.a, factors.b):
            if factor.dtype not in _DTYPES or not factor.isfinite().all():
                raise InvalidInput(f"the adapter's factors of {layer} are not finite numbers of 16 or 32 bits")


def _module_of(layer: str) -> str:
    return layer.rpartition(".")[2]
