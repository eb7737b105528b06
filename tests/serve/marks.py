"""Adapters that each generate one token of their own for any prompt, on a base model made for them."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save, save_file
from transformers import AutoTokenizer

from looper.platform.adapters import AdapterFiles
from looper.platform.adapters.base_revision import BASE_MANIFEST, read_base_manifest
from looper.platform.domain.names import InstanceName
from tests.serve.published import adapter_files
from tests.tiny import tiny_base

CONSTANT_FEATURE = 4.0
"""Value of the first dimension of every token embedding. The adapters' LoRA A matrices read it."""
TOKEN_WITHOUT_EMBEDDING = "<|image|>"
"""A token that the tokenizer knows and for which the model has no embedding. Gemma 3 1B has one too."""
HIDDEN_STATE_SHIFT = 300.0
"""How far an adapter shifts the last hidden state, so that nothing else in it matters."""


def single_token_base(folder: Path) -> Path:
    """Create the tiny base model with ``CONSTANT_FEATURE`` and ``TOKEN_WITHOUT_EMBEDDING``."""
    tiny_base(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": [TOKEN_WITHOUT_EMBEDDING]})
    tokenizer.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][:, 0] = CONSTANT_FEATURE
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    revision = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    manifest = read_base_manifest(folder).model_copy(update={"revision": revision})
    (folder / BASE_MANIFEST).write_text(manifest.model_dump_json())
    return folder


def distinct_tokens(base: Path) -> list[int]:
    """Return tokens whose texts are all different and printable."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    texts = {
        tokenizer.decode([token]): token for token in range(len(tokenizer)) if token not in tokenizer.all_special_ids
    }
    # A token that is a part of a character has no text of its own.
    return sorted(
        token
        for text, token in texts.items()
        if text.isprintable() and text.strip() == text and text and "\ufffd" not in text
    )


def single_token_adapter(base: Path, instance: InstanceName, token: int, *, rank: int = 8) -> AdapterFiles:
    """Return an adapter that generates ``token``.

    It makes the values of the last layer a constant that the output projection maps to the token's embedding. The
    constant is found by least squares, because there are fewer values than dimensions.
    """
    config = json.loads((base / "config.json").read_text())
    weights = load_file(base / "model.safetensors")
    last, hidden = config["num_hidden_layers"] - 1, config["hidden_size"]
    head_size = hidden // config["num_attention_heads"]
    groups = config["num_attention_heads"] // config["num_key_value_heads"]
    out = weights[f"model.layers.{last}.self_attn.o_proj.weight"]
    # Each value head is shared by a group of query heads.
    from_values = out.view(hidden, config["num_key_value_heads"], groups, head_size).sum(2).flatten(1)
    target = weights["model.embed_tokens.weight"][token].clone()
    target[0] = 0
    value = torch.linalg.lstsq(from_values, target[:, None]).solution[:, 0]
    shift = from_values @ value
    a, b = torch.zeros(rank, hidden), torch.zeros(len(value), rank)
    a[0, 0], b[:, 0] = 1.0, value * HIDDEN_STATE_SHIFT / shift.norm() / hidden**0.5
    name = f"base_model.model.model.layers.{last}.self_attn.v_proj"
    content = save({f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b})
    return adapter_files(base, instance, content, rank=rank, seed=token, modules=("v_proj",))
