"""Adapters that each say one token of their own, whatever they are asked, on a base model made for it."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save, save_file
from transformers import AutoTokenizer

from looper.platform.adapters import AdapterFiles
from looper.platform.domain.names import InstanceName
from tests.serve.published import adapter_files
from tests.tiny import tiny_base

CONSTANT = 4.0
"""In the first dimension of every token's embedding: what the adapters' first factors look at."""
UNEMBEDDED = "<|image|>"
"""A token that the tokenizer knows and the model has no embedding for, as Gemma 3 of one billion parameters has."""
LOUD = 300.0
"""How far an adapter moves the last hidden state, so that nothing else in it counts."""


def marked_base(folder: Path) -> Path:
    """The tiny base, with that first dimension and that token."""
    tiny_base(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": [UNEMBEDDED]})
    tokenizer.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][:, 0] = CONSTANT
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    revision = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "looper.json").write_text(json.dumps({"revision": revision}))
    return folder


def marks(base: Path) -> list[int]:
    """Tokens that are told apart as text."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    texts = {
        tokenizer.decode([token]): token for token in range(len(tokenizer)) if token not in tokenizer.all_special_ids
    }
    # A part of a character is no text before the rest of it comes.
    return sorted(
        token
        for text, token in texts.items()
        if text.isprintable() and text.strip() == text and text and "\ufffd" not in text
    )


def mark_adapter(base: Path, instance: InstanceName, token: int, *, rank: int = 8) -> AdapterFiles:
    """Says ``token``: its last layer's values are a constant that the output projection turns to the token's embedding.

    The value is found by least squares, as there are fewer values than dimensions.
    """
    config = json.loads((base / "config.json").read_text())
    weights = load_file(base / "model.safetensors")
    last, hidden = config["num_hidden_layers"] - 1, config["hidden_size"]
    wide = hidden // config["num_attention_heads"]
    groups = config["num_attention_heads"] // config["num_key_value_heads"]
    out = weights[f"model.layers.{last}.self_attn.o_proj.weight"]
    # Each head of values is used by so many heads of queries.
    from_values = out.view(hidden, config["num_key_value_heads"], groups, wide).sum(2).flatten(1)
    wanted = weights["model.embed_tokens.weight"][token].clone()
    wanted[0] = 0
    value = torch.linalg.lstsq(from_values, wanted[:, None]).solution[:, 0]
    moved = from_values @ value
    a, b = torch.zeros(rank, hidden), torch.zeros(len(value), rank)
    a[0, 0], b[:, 0] = 1.0, value * LOUD / moved.norm() / hidden**0.5
    name = f"base_model.model.model.layers.{last}.self_attn.v_proj"
    content = save({f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b})
    return adapter_files(base, instance, content, rank=rank, seed=token, modules=("v_proj",))
