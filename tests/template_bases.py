"""Tiny base models for real chat templates: their special tokens in a small vocabulary, and no weights."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from looper.basemodel import prepare
from looper.platform.adapters.base_revision import BASE_MANIFEST

TEMPLATES = Path(__file__).parents[2] / "shared" / "data" / "chat-templates"
"""Real templates. They are not part of the project; tests that use them skip where they are absent."""

STOPS = {
    "GLM": ["<|endoftext|>", "<|user|>", "<|observation|>"],
    "Kimi": ["<|im_end|>", "[EOS]"],
    "istral": ["</s>"],
    "DeepSeek": ["<｜end▁of▁sentence｜>"],
    "gemma": ["<eos>", "<end_of_turn>"],
    "granite": ["<|end_of_text|>"],
    "Llama-3": ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"],
    "Phi-3": ["<|endoftext|>", "<|end|>"],
    "gpt-oss": ["<|return|>", "<|call|>"],
}
"""Tokens that end a response, by a part of the template's name; ``<|im_end|>`` for all others. The last is the eos."""

BOS = {"istral": "<s>", "DeepSeek": "<｜begin▁of▁sentence｜>", "gemma": "<bos>", "Llama-3": "<|begin_of_text|>"}

EXTRA = {"Llama-3": ["<|python_tag|>"]}
"""Special tokens that a vocabulary has and its template does not mention."""

_SPECIAL = re.compile(r"<\|[^|<>\s]+\|>|<｜[^｜<>\s]+｜>|\[/?[A-Z_]{3,}\]|</?(?:start|end)_of_turn>")
_TAG = re.compile(r"</?(?:tool_call|think|tool_response|arg_key|arg_value|response)>")


def template_names() -> list[str]:
    """Return the names of all templates."""
    return sorted(file.stem for file in TEMPLATES.glob("*.jinja"))


def template_base(folder: Path, name: str) -> Path:
    """Write configuration, tokenizer and template of a tiny base model; return ``folder``."""
    if not TEMPLATES.is_dir():
        pytest.skip("the real chat templates are not here")
    extra = next((tokens for part, tokens in EXTRA.items() if part in name), [])
    return write_template_base(folder, (TEMPLATES / f"{name}.jinja").read_text(), *tokens_of(name), extra=extra)


def prepared_base(folder: Path, name: str) -> Path:
    """Return the folder of a tiny base model with a real template, as ``prepare`` makes it, with random weights."""
    source = template_base(folder / name, name)
    torch.manual_seed(0)
    stops = GenerationConfig.from_pretrained(source)
    LlamaForCausalLM(LlamaConfig.from_pretrained(source)).save_pretrained(source)
    stops.save_pretrained(source)  # the model wrote its own, which knows one token that ends a response
    (source / BASE_MANIFEST).unlink()
    return prepare(str(source), folder / "prepared")


def tokens_of(name: str) -> tuple[list[str], str | None]:
    """Return the tokens that end a response, and the one that begins a text."""
    key = "Hermes" if "Hermes" in name else "DeepSeek" if "DeepSeek" in name else None
    stops = next((tokens for part, tokens in STOPS.items() if part in (key or name)), ["<|im_end|>"])
    bos = next((token for part, token in BOS.items() if part in (key or name)), None)
    return stops, bos


def write_template_base(
    folder: Path, template: str, stops: list[str], bos: str | None = None, extra: Sequence[str] = ()
) -> Path:
    """Write a tiny base model with any template; return ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    special = sorted({*_SPECIAL.findall(template), *stops, *([bos] if bos else []), *extra, "<|pad|>"})
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tags = sorted(set(_TAG.findall(template)))
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([template], trainer)
    inner.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in tags])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token=stops[-1],
        pad_token="<|pad|>",
        **({"bos_token": bos} if bos else {}),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    stop_ids = [tokenizer.convert_tokens_to_ids(token) for token in stops]
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2**18,
        initializer_range=0.1,
        architectures=["LlamaForCausalLM"],
        eos_token_id=stop_ids[-1],
    )
    config.save_pretrained(folder)
    GenerationConfig(eos_token_id=stop_ids).save_pretrained(folder)
    (folder / "looper.json").write_text(json.dumps({"revision": "0" * 64}))
    return folder
