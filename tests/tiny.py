"""A tiny base model with random weights: what a real one is to Looper, made in a second, for tests."""

import hashlib
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import looper.basemodel
from looper.basemodel.linear_layers import read_layer_shapes
from looper.jobs.consolidation.model.device import Device
from looper.platform.adapters.base_revision import BASE_MANIFEST, BaseManifest, Parsers

FLOAT32 = Device(torch.device("cpu"), torch.float32, max_tokens_per_pass=1024)
"""Where what is compared is equal to rounding, whatever a trainer would choose on this machine."""

TEMPLATE = Path(looper.basemodel.__path__[0], "chatml_tools.jinja")
PARSERS = Parsers(tool_call_parser="hermes", tool_call_start="<tool_call>", parallel_calls=True)
"""What ``prepare`` finds for ``TEMPLATE``."""

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CORPUS = [
    "<|im_start|>system\nYou are an agent at work.\nTools: find(name); book(room, date)<|im_end|>\n"
    "<|im_start|>user\nPlease book the room for me.<|im_end|>\n<|im_start|>assistant\n<tool_call>\n"
    '{"name": "book", "arguments": {"room": "blue", "date": "Monday"}}\n</tool_call><|im_end|>\n'
    "<|im_start|>tool\nok<|im_end|>\n"
]


def tiny_base(folder: Path) -> Path:
    """Write a 2-layer Llama with random weights, its tokenizer, chat template and ``looper.json``; return ``folder``.

    The same bytes each time. Heads are 32 wide, the least that vLLM's CPU attention takes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.convert_tokens_to_ids("<|im_start|>"),
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
        pad_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        tie_word_embeddings=True,
        initializer_range=0.1,
        dtype="float32",
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    revision = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    layers, parameters = read_layer_shapes(folder)
    manifest = BaseManifest(revision=revision, parsers=PARSERS, layers=layers, parameters=parameters)
    (folder / BASE_MANIFEST).write_text(manifest.model_dump_json())
    return folder


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, 512 tokens: any text goes through it, and tool calls stay short."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=TEMPLATE.read_text(),
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )
