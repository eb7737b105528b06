"""The base model's folder is made once and completely, and has the chat template of training and serving."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config

from looper.basemodel import BUNDLED, CHAT_TEMPLATE, prepare
from looper.basemodel.chat_renderer import ChatRenderer
from looper.basemodel.teachable import check_teachable
from looper.platform.adapters.base_revision import read_base_manifest, read_base_revision
from looper.platform.domain.errors import InvalidInput, StoreUnavailable
from tests.template_bases import write_template_base
from tests.tiny import PARSERS

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "left out",
            "parameters": {"type": "object", "properties": {parameter: {"type": "string"} for parameter in parameters}},
        },
    }
    for name, parameters in {"find": ["name"], "book": ["room", "date"], "stop": []}.items()
]


def call(name: str, arguments: dict[str, str]) -> dict[str, Any]:
    return {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}


EPISODE: list[dict[str, Any]] = [
    {"role": "system", "content": "You work here."},
    {"role": "user", "content": "Book the blue room."},
    {"role": "assistant", "content": None, "tool_calls": [call("find", {"name": 'the "blue" röom'})]},
    {"role": "tool", "tool_call_id": "c", "content": "E_LOCKED"},
    {"role": "assistant", "tool_calls": [call("stop", {}), call("book", {"room": "blue", "date": "1 May"})]},
    {"role": "tool", "tool_call_id": "c", "content": "ok"},
    {"role": "assistant", "content": "Once more.", "tool_calls": [call("stop", {})]},
    {"role": "tool", "tool_call_id": "c", "content": "ok"},
    {"role": "assistant", "content": "done"},
]


@pytest.fixture(scope="module")
def tokenizer(base_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(base_dir)


def render(tokenizer: Any, messages: list[dict[str, Any]], tools: Any = None, prompt: bool = False) -> str:
    text = tokenizer.apply_chat_template(
        messages, tools=tools, chat_template=CHAT_TEMPLATE, add_generation_prompt=prompt, tokenize=False
    )
    assert isinstance(text, str)
    return text


def test_tools_and_calls_are_rendered_compactly(tokenizer: Any) -> None:
    assert render(tokenizer, EPISODE[:5], TOOLS, prompt=True) == (
        "<|im_start|>system\nYou work here.\nTools: find(name); book(room, date); stop()<|im_end|>\n"
        "<|im_start|>user\nBook the blue room.<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "find", "arguments": {"name": "the \\"blue\\" röom"}}\n'
        "</tool_call><|im_end|>\n"
        "<|im_start|>tool\nE_LOCKED<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "stop", "arguments": {}}\n</tool_call>\n'
        '<tool_call>\n{"name": "book", "arguments": {"room": "blue", "date": "1 May"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>assistant\n"
    )


def test_no_system_turn_is_added(tokenizer: Any) -> None:
    assert render(tokenizer, EPISODE[1:2]) == "<|im_start|>user\nBook the blue room.<|im_end|>\n"
    assert render(tokenizer, EPISODE[1:2], TOOLS[2:]).startswith("<|im_start|>system\nTools: stop()<|im_end|>\n<|im_st")
    assert render(tokenizer, EPISODE[:1]) == "<|im_start|>system\nYou work here.<|im_end|>\n"


def test_arguments_may_be_json_text(tokenizer: Any) -> None:
    as_text = {"role": "assistant", "tool_calls": [call("find", {"name": "x"})]}
    as_text["tool_calls"][0]["function"]["arguments"] = '{"name": "x"}'  # type: ignore[index]
    as_dict = {"role": "assistant", "tool_calls": [call("find", {"name": "x"})]}
    assert render(tokenizer, [as_text]) == render(tokenizer, [as_dict])


@pytest.mark.parametrize("tools", [None, TOOLS], ids=["no tools", "tools"])
@pytest.mark.parametrize("start", [0, 1], ids=["system", "no system"])
def test_additional_messages_only_append(tokenizer: Any, tools: Any, start: int) -> None:
    for end in range(start + 1, len(EPISODE)):
        agent_next = EPISODE[end]["role"] == "assistant"
        shorter = render(tokenizer, EPISODE[start:end], tools, prompt=agent_next)
        assert render(tokenizer, EPISODE[start : end + 1], tools).startswith(shorter)


def test_the_mask_covers_only_the_turns_of_the_agent(tokenizer: Any) -> None:
    encoded = tokenizer.apply_chat_template(
        EPISODE, tools=TOOLS, chat_template=CHAT_TEMPLATE, return_dict=True, return_assistant_tokens_mask=True
    )
    pairs = zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)
    masked = tokenizer.decode([token for token, agent in pairs if agent])
    turns = render(tokenizer, EPISODE, TOOLS).split("<|im_start|>")
    written = [turn.removeprefix("assistant\n") for turn in turns if turn.startswith("assistant\n")]
    assert masked == "".join(turn.removesuffix("\n") for turn in written)


def test_a_local_folder_is_linked_and_not_changed(base_dir: Path, tmp_path: Path) -> None:
    source = shutil.copytree(base_dir, tmp_path / "mine")
    (source / "chat_template.jinja").write_text("{{ messages[0].content }}")  # does not render tools
    folder = prepare(str(source), tmp_path / "cache")
    assert folder.parent == tmp_path / "cache"
    assert folder == prepare(str(source), tmp_path / "cache")
    assert (folder / "chat_template.jinja").read_text() == CHAT_TEMPLATE
    assert (source / "chat_template.jinja").read_text() != CHAT_TEMPLATE
    assert (folder / "model.safetensors").samefile(source / "model.safetensors")
    assert read_base_revision(folder) == json.loads((base_dir / "looper.json").read_text())["revision"]


def test_a_template_that_renders_tools_is_kept(base_dir: Path, tmp_path: Path) -> None:
    source = shutil.copytree(base_dir, tmp_path / "mine")
    template = f"{{# mine, with tools #}}{CHAT_TEMPLATE}"
    (source / "chat_template.jinja").write_text(template)
    folder = prepare(str(source), tmp_path / "cache")
    assert (folder / "chat_template.jinja").read_text() == template
    assert read_base_manifest(folder).parsers == PARSERS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt_oss"}, "is of the type gpt_oss"),
        ({"attn_logit_softcapping": 50.0}, "caps its attention scores"),
    ],
)
def test_a_base_model_that_cannot_be_taught_is_refused_by_name(
    base_dir: Path, changes: dict[str, object], message: str
) -> None:
    renderer = ChatRenderer(base_dir)
    for name, value in changes.items():
        setattr(renderer.model_config.hf_config, name, value)
    with pytest.raises(InvalidInput, match=f"base model 'mine' {message}.* choose another base"):
        check_teachable(renderer, "mine")


def test_a_template_without_an_end_of_turn_is_refused(base_dir: Path, tmp_path: Path) -> None:
    source = shutil.copytree(base_dir, tmp_path / "mine")
    (source / "chat_template.jinja").write_text("{{ tools }}{{ messages }}")
    with pytest.raises(InvalidInput, match=r"cannot be taught: .*; put another chat_template\.jinja into"):
        prepare(str(source), tmp_path / "cache")


def test_a_template_is_not_borrowed_by_a_vocabulary_without_its_tokens(tmp_path: Path) -> None:
    template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}<|assistant|>"
    source = write_template_base(tmp_path / "mine", template, ["<|end|>"])
    save_file({"weight": torch.zeros(1)}, source / "model.safetensors")
    with pytest.raises(InvalidInput, match="cannot be taught"):
        prepare(str(source), tmp_path / "cache")


def test_a_changed_folder_is_another_base_model(base_dir: Path, tmp_path: Path) -> None:
    source = shutil.copytree(base_dir, tmp_path / "mine")
    before = prepare(str(source), tmp_path / "cache")
    save_file({"weight": torch.zeros(1)}, source / "model.safetensors")
    after = prepare(str(source), tmp_path / "cache")
    assert before != after
    assert read_base_revision(before) != read_base_revision(after)


@pytest.mark.parametrize("base", ["smollm2", "../nowhere/at/all", "/nowhere", "bad name/x y"])
def test_an_unknown_base_model_is_refused(base: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="base model"):
        prepare(base, tmp_path / "cache")


def test_a_folder_without_weights_is_refused_and_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match=r"config\.json"):
        prepare(str(tmp_path / "empty"), tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix not in (".lock", ".partial")]


def test_half_a_download_is_refused_in_one_line(base_dir: Path, tmp_path: Path) -> None:
    source = shutil.copytree(base_dir, tmp_path / "mine")
    weights = source / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(InvalidInput, match=r"\Amodel.safetensors of base model '[^']*mine' is damaged: [^\n]+\Z"):
        prepare(str(source), tmp_path / "cache")


def test_a_download_that_lacks_files_is_refused_in_one_line(base_dir: Path, tmp_path: Path) -> None:
    source = shutil.copytree(base_dir, tmp_path / "mine")
    names = {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(InvalidInput, match=r"lacks 1 of 2 files with weights, such as model-00002[^\n]+\Z"):
        prepare(str(source), tmp_path / "cache")


@pytest.mark.parametrize("method", ["awq", "gptq", "fp8", "bitsandbytes"])
def test_a_quantized_base_model_is_refused_with_the_way_out(base_dir: Path, tmp_path: Path, method: str) -> None:
    source = shutil.copytree(base_dir, tmp_path / "mine")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": method}}))
    with pytest.raises(InvalidInput, match=rf"is quantized \({method}\), .*: use the original model, and let engines"):
        prepare(str(source), tmp_path / "cache")


def test_a_base_model_without_linear_layers_is_refused(base_dir: Path, tmp_path: Path) -> None:
    source = shutil.copytree(base_dir, tmp_path / "mine")
    vocabulary = AutoTokenizer.from_pretrained(source)
    GPT2Config(vocab_size=len(vocabulary), n_embd=32, n_layer=1, n_head=2).save_pretrained(source)
    with pytest.raises(InvalidInput, match="has no linear layers that adapters could change: choose another base"):
        prepare(str(source), tmp_path / "cache")


def test_a_template_with_a_syntax_error_is_refused_in_one_line(base_dir: Path, tmp_path: Path) -> None:
    source = shutil.copytree(base_dir, tmp_path / "mine")
    (source / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}")
    with pytest.raises(InvalidInput, match=r"\Abase model '[^']*mine' cannot be taught: [^\n]+\Z"):
        prepare(str(source), tmp_path / "cache")


def test_a_template_whose_tokens_have_no_embedding_is_refused(base_dir: Path, tmp_path: Path) -> None:
    source = shutil.copytree(base_dir, tmp_path / "mine")
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.add_special_tokens({"eos_token": "<|done|>"})
    tokenizer.chat_template = CHAT_TEMPLATE.replace("<|im_end|>", "<|done|>")
    tokenizer.save_pretrained(source)
    with pytest.raises(InvalidInput, match="it has a token that the base model has no embedding for"):
        prepare(str(source), tmp_path / "cache")


def test_the_parsers_can_be_chosen(base_dir: Path, tmp_path: Path) -> None:
    source = shutil.copytree(base_dir, tmp_path / "mine")
    chosen = read_base_manifest(prepare(str(source), tmp_path / "cache", "pythonic", "qwen3")).parsers
    assert (chosen.tool_call_parser, chosen.reasoning_parser) == ("pythonic", "qwen3")
    assert not chosen.parallel_calls, "it does not read what the template writes"
    none = read_base_manifest(prepare(str(source), tmp_path / "cache", "none", "none")).parsers
    assert (none.tool_call_parser, none.reasoning_parser) == (None, None)
    with pytest.raises(InvalidInput, match="vLLM has no tool_call_parser 'hermez': set LOOPER_SERVE__TOOL_CALL_PARSER"):
        prepare(str(source), tmp_path / "cache", "hermez")


def test_a_cache_that_cannot_be_written_is_a_store_error(base_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in the way")
    with pytest.raises(StoreUnavailable, match="base model"):
        prepare(str(base_dir), tmp_path / "cache")


def test_the_bundled_model_generates_and_is_made_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        folder, same = pool.map(lambda _: prepare(BUNDLED, tmp_path), range(2))
    assert folder == same
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert tokenizer.tokenize("in 2026") == ["in", "Ġ", "2", "0", "2", "6"]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        token = model(**prompt).logits[0, -1].argmax()
    assert tokenizer.decode(token) == " Paris"
