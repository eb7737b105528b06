"""Tiny base models of the real architectures, with random weights."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    Glm4Config,
    GptOssConfig,
    GraniteConfig,
    Lfm2Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
)

from looper.basemodel.linear_layers import read_layer_shapes
from looper.platform.adapters.base_revision import BASE_MANIFEST, BaseManifest
from tests.tiny import PARSERS, tiny_tokenizer

SLIDING_WINDOW = 16
"""Tokens of a sliding window, so short that the windows of tests are longer."""

_EXPERTS = {"moe_intermediate_size": 64, "num_experts": 4, "num_experts_per_tok": 2}

ARCHITECTURES: Mapping[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "Llama": (LlamaConfig, {}),
    "Qwen2": (Qwen2Config, {}),
    "Qwen3": (Qwen3Config, {}),
    "Mistral": (MistralConfig, {"sliding_window": SLIDING_WINDOW}),
    "Phi-3": (Phi3Config, {}),
    "Gemma-3": (
        Gemma3TextConfig,
        {"sliding_window": SLIDING_WINDOW, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "OLMo-2": (Olmo2Config, {}),
    "SmolLM3": (SmolLM3Config, {}),
    "GLM-4": (Glm4Config, {}),
    "Granite": (
        GraniteConfig,
        {
            "attention_multiplier": 0.2,
            "embedding_multiplier": 12.0,
            "logits_scaling": 8.0,
            "residual_multiplier": 0.22,
        },
    ),
    "Qwen3-MoE": (Qwen3MoeConfig, _EXPERTS),
    "Mixtral": (MixtralConfig, {"num_local_experts": 4, "sliding_window": None}),
}
"""What can be taught and served: the class of the configuration, and what it needs beside the sizes."""

REFUSED: Mapping[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "Gemma-2": (Gemma2Config, {"sliding_window": SLIDING_WINDOW}),
    "gpt-oss": (GptOssConfig, {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "LFM2": (Lfm2Config, {"layer_types": ["conv", "full_attention"]}),
}
"""What is refused."""


def architecture_base(folder: Path, name: str) -> Path:
    """Write a base model with random weights, its tokenizer, chat template and ``looper.json``; return ``folder``.

    Args:
        folder: Where to write it.
        name: A key of ``ARCHITECTURES`` or ``REFUSED``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    config_class, more = {**ARCHITECTURES, **REFUSED}[name]
    torch.manual_seed(0)
    config = config_class(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "max_position_embeddings": 2048,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "initializer_range": 0.1,
            "dtype": "float32",
            **more,
        }
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    revision = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    layers, parameters = read_layer_shapes(folder)
    manifest = BaseManifest(revision=revision, parsers=PARSERS, layers=layers, parameters=parameters)
    (folder / BASE_MANIFEST).write_text(manifest.model_dump_json())
    return folder


def llama_config(hidden: int, inner: int, layers: int, heads: int, groups: int, vocabulary: int) -> LlamaConfig:
    """Return the configuration of a Llama of any size."""
    return LlamaConfig(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        vocab_size=vocabulary,
    )
