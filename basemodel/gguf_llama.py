"""Convert a Llama model in GGUF (llama.cpp's file format) to a folder that transformers, PEFT and vLLM load.

transformers can read GGUF too, but that takes about 70 s for 135M parameters: it learns the tokenizer's merges again
and dequantizes tensor by tensor through a model that it first initializes. Reading the fields directly takes a few
seconds. The module covers only what the bundled model needs: the Llama architecture with tied embeddings, and a
byte-level BPE tokenizer that splits digits. ``looper.basemodel.prepare`` calls it.
"""

from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader, TokenType
from gguf.quants import dequantize
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import LlamaConfig, PreTrainedTokenizerFast

_OUTSIDE_LAYERS = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
_IN_LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def convert_gguf(source: Path, folder: Path, chat_template: str) -> None:
    """Write config, bfloat16 weights and tokenizer of a GGUF file.

    Args:
        source: The GGUF file.
        folder: Existing folder to write to.
        chat_template: Chat template for the tokenizer, in Jinja.
    """
    reader = GGUFReader(source)
    config = _make_config(reader)
    config.save_pretrained(folder)
    save_file(_read_weights(reader, config), folder / "model.safetensors", metadata={"format": "pt"})
    _make_tokenizer(reader, chat_template).save_pretrained(folder)


def _read_field(reader: GGUFReader, name: str) -> Any:
    field = reader.get_field(name)
    assert field is not None, f"the GGUF file has no field {name}"
    return field.contents()


def _make_config(reader: GGUFReader) -> LlamaConfig:
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=_read_field(reader, "llama.vocab_size"),
        hidden_size=_read_field(reader, "llama.embedding_length"),
        intermediate_size=_read_field(reader, "llama.feed_forward_length"),
        num_hidden_layers=_read_field(reader, "llama.block_count"),
        num_attention_heads=_read_field(reader, "llama.attention.head_count"),
        num_key_value_heads=_read_field(reader, "llama.attention.head_count_kv"),
        max_position_embeddings=_read_field(reader, "llama.context_length"),
        rms_norm_eps=_read_field(reader, "llama.attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": _read_field(reader, "llama.rope.freq_base")},
        bos_token_id=_read_field(reader, "tokenizer.ggml.bos_token_id"),
        eos_token_id=_read_field(reader, "tokenizer.ggml.eos_token_id"),
        pad_token_id=_read_field(reader, "tokenizer.ggml.padding_token_id"),
        tie_word_embeddings=True,
        dtype=torch.bfloat16,
    )


def _read_weights(reader: GGUFReader, config: LlamaConfig) -> dict[str, torch.Tensor]:
    weights = {}
    for tensor in reader.tensors:
        weight = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        if ".attn_q." in tensor.name:
            weight = _restore_row_order(weight, config.num_attention_heads)
        elif ".attn_k." in tensor.name:
            weight = _restore_row_order(weight, config.num_key_value_heads)
        weights[_hf_name(tensor.name)] = weight.to(torch.bfloat16)
    return weights


def _hf_name(name: str) -> str:
    if name in _OUTSIDE_LAYERS:
        return _OUTSIDE_LAYERS[name]
    _, layer, part, suffix = name.split(".")
    return f"model.layers.{layer}.{_IN_LAYER[part]}.{suffix}"


def _restore_row_order(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Undo llama.cpp's row order: it interleaves the two rotary halves of a head, and transformers does not."""
    rows, columns = weight.shape
    return weight.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns).contiguous()


def _make_tokenizer(reader: GGUFReader, chat_template: str) -> PreTrainedTokenizerFast:
    tokens: list[str] = _read_field(reader, "tokenizer.ggml.tokens")
    kinds: list[int] = _read_field(reader, "tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in _read_field(reader, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == TokenType.CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens[_read_field(reader, "tokenizer.ggml.bos_token_id")],
        eos_token=tokens[_read_field(reader, "tokenizer.ggml.eos_token_id")],
        unk_token=tokens[_read_field(reader, "tokenizer.ggml.unknown_token_id")],
        pad_token=tokens[_read_field(reader, "tokenizer.ggml.padding_token_id")],
        model_max_length=_read_field(reader, "llama.context_length"),
        clean_up_tokenization_spaces=False,
        chat_template=chat_template,
    )
