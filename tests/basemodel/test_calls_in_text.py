"""A base model whose own chat template writes no tool calls gets them in the text of its turns."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from looper.basemodel import prepare
from looper.basemodel.answer_reader import AnswerReader
from looper.basemodel.chat_renderer import EXAMPLE_TOOLS, ChatRenderer
from looper.basemodel.diagnosis import diagnose
from looper.basemodel.turn_renderer import TurnRenderer
from looper.platform.adapters.base_revision import read_base_manifest
from tests.template_bases import write_template_base

TURNS = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + TURNS
PARTS = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

TOOLS = """You can call these tools:
<tools>
{"name": "find", "description": "Find", "parameters": {"type": "object"}}
</tools>
To call a tool, write:
<tool_call>
{"name": "the name of the tool", "arguments": {"argument": "value"}}
</tool_call>"""
CALL = '<tool_call>\n{"name": "find", "arguments": {"id": 18446744073709551621, "said": "日本 <b>"}}\n</tool_call>'


def prepare_base(folder: Path, template: str) -> Path:
    source = write_template_base(folder / "own", template, ["<|end|>"])
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(source))
    torch.nn.init.zeros_(model.lm_head.weight)
    model.save_pretrained(source)
    return prepare(str(source), folder / "cache")


def make_messages(system: bool) -> list[dict[str, Any]]:
    arguments = '{"id": 18446744073709551621, "said": "日本 <b>"}'
    calls = [{"id": "call00000", "type": "function", "function": {"name": "find", "arguments": arguments}}]
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "text", "text": "Hi."}]},
        {"role": "assistant", "content": "I look.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call00000", "content": "one"},
        {"role": "tool", "tool_call_id": "call00000", "content": "two"},
        {"role": "assistant", "content": "Done."},
    ]
    return [{"role": "system", "content": "Be kind."}, *messages] if system else messages


RESULTS = "<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response>"
AGENT = f"<|assistant|>I look.\n{CALL}<|end|><|user|>{RESULTS}<|end|><|assistant|>"


@pytest.mark.parametrize(
    ("template", "beginning"),
    [
        (TURNS, f"<|system|>Be kind.<|end|><|user|>{TOOLS}\n\nHi.<|end|>"),
        (PARTS, f"<|system|>Be kind.<|end|><|user|>{TOOLS}\n\nHi.<|end|>"),
        (NO_SYSTEM, f"<|user|>Be kind.\n\n{TOOLS}\n\nHi.<|end|>"),
    ],
    ids=["texts", "parts", "no system"],
)
def test_calls_results_and_tools_are_in_the_text(template: str, beginning: str, tmp_path: Path) -> None:
    folder = prepare_base(tmp_path, template)
    renderer, parsers = ChatRenderer(folder), read_base_manifest(folder).parsers
    conversation = renderer.parse(make_messages(system=True), EXAMPLE_TOOLS)
    *history, last = conversation.messages
    assert renderer.render(conversation, history, prompt=True) == beginning + AGENT
    call = TurnRenderer(renderer).render(conversation, history[:2], history[2])
    read = AnswerReader(renderer, parsers).read(conversation, call.answer, [])
    assert read.calls == [("find", {"id": 18446744073709551621, "said": "日本 <b>"})]
    assert read.content.strip() == "I look."
    [(start, end)] = call.calls
    assert renderer.tokenizer.decode(call.answer[start:end]).strip() == CALL
    assert (
        renderer.tokenizer.decode(TurnRenderer(renderer).render(conversation, history, last).answer) == "Done.<|end|>"
    )
    assert diagnose(folder).template == "its own, with tool calls in the text"
    assert parsers.parallel_calls


def test_a_conversation_without_tools_is_as_its_own_template_writes_it(tmp_path: Path) -> None:
    renderer = ChatRenderer(prepare_base(tmp_path, TURNS))
    conversation = renderer.parse([{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hey."}], None)
    text = renderer.render(conversation, conversation.messages, prompt=True)
    assert text == "<|user|>Hi.<|end|><|assistant|>Hey.<|end|><|assistant|>"


def test_a_conversation_that_begins_with_the_agent_has_its_tools(tmp_path: Path) -> None:
    renderer = ChatRenderer(prepare_base(tmp_path, TURNS))
    conversation = renderer.parse([{"role": "assistant", "content": "Hello."}], EXAMPLE_TOOLS)
    assert renderer.render(conversation, conversation.messages, prompt=True).startswith(f"<|user|>{TOOLS}<|end|>")
