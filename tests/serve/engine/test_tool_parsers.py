"""A streamed message is the same as the whole one, for any text and however it is cut into pieces."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.parser.parser_manager import ParserManager

from looper.serve.engine import tool_parsers
from looper.serve.engine.engine_arguments import streaming_parser_name
from tests.tiny import tiny_base

BOOK = {"type": "function", "function": {"name": "book", "parameters": {"type": "object"}}}
CALL = '<tool_call>\n{"name": "book", "arguments": {"room": "blue <b>"}}\n</tool_call>'
REVERSED = '<tool_call>{"arguments": {"name": "x", "n": [1, {"a": 2}]}, "name": "book"}</tool_call>'
PARTS = [
    "<tool_call>",
    "</tool_call>",
    "<tool_",
    "<",
    "tool",
    "call>",
    CALL,
    REVERSED,
    "{",
    "}",
    '"name"',
    " ",
    "\n",
    "é🦙",
]

texts = st.lists(st.one_of(st.sampled_from(PARTS), st.text(max_size=6)), max_size=8).map("".join)
# A text that max_tokens cut: any beginning.
cut_texts = st.builds(lambda text, end: text[: len(text) - end], texts, st.integers(0, 30))


@cache
def parser_class() -> Any:
    tool_parsers.register("hermes", "<tool_call>")
    return ParserManager.get_parser(streaming_parser_name("hermes"), None, enable_auto_tools=True)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoTokenizer.from_pretrained(tiny_base(tmp_path_factory.mktemp("base")))


def request(choice: str) -> ChatCompletionRequest:
    messages = [{"role": "user", "content": "Book."}]
    return ChatCompletionRequest.model_validate({"messages": messages, "tools": [BOOK], "tool_choice": choice})


def parse_whole(tokenizer: Any, text: str, choice: str) -> tuple[str, list[tuple[str, str]]]:
    parser = parser_class()(tokenizer, [])
    _, content, calls = parser.parse(text, request(choice), enable_auto_tools=True)
    return content or "", [(call.name, call.arguments) for call in calls or []]


def parse_stream(tokenizer: Any, pieces: list[str], choice: str) -> tuple[str, list[tuple[str, str]], list[Any]]:
    parser, content, calls, deltas = parser_class()(tokenizer, []), "", {}, []
    asked = request(choice)
    for number, piece in enumerate(pieces):
        is_last = number == len(pieces) - 1
        delta = parser.parse_delta(piece, [number], asked, [0], finished=is_last)
        deltas.append(delta)
        if delta:
            content += delta.content or ""
            for call in delta.tool_calls or []:
                name, arguments = calls.get(call.index, ("", ""))
                calls[call.index] = (
                    name + (call.function.name or ""),
                    arguments + (call.function.arguments or ""),
                )
    return content, [calls[index] for index in sorted(calls)], deltas


def cut(text: str, sizes: list[int]) -> list[str]:
    """Cut a text into pieces of these sizes, and a last one."""
    pieces = []
    for size in sizes:
        pieces.append(text[:size])
        text = text[size:]
    return [*pieces, text]


@given(text=cut_texts, sizes=st.lists(st.integers(0, 12), max_size=40), choice=st.sampled_from(["auto", "none"]))
@example(text="I will use <tool_", sizes=[5, 5], choice="auto")
@example(text='<tool_call>{"name": "book", "arguments": {"room": "bl', sizes=[20, 20], choice="auto")
@example(text=REVERSED, sizes=[1] * 60, choice="auto")
@example(text=CALL + "\n" + CALL[:40], sizes=[30], choice="auto")
@example(text="\n\n" + CALL, sizes=[1, 1, 1], choice="auto")
@settings(max_examples=150, deadline=None)
def test_a_stream_says_what_the_whole_text_says(tokenizer: Any, text: str, sizes: list[int], choice: str) -> None:
    content, calls, _ = parse_stream(tokenizer, cut(text, sizes), choice)
    assert (content, calls) == parse_whole(tokenizer, text, choice)


@given(text=cut_texts)
@settings(max_examples=40, deadline=None)
def test_pieces_of_a_real_tokenizer_are_read_the_same_way(text: str) -> None:
    folder = next(Path("~/.cache/looper/models").expanduser().glob("smollm2-*/tokenizer.json"), None)
    if folder is None:
        pytest.skip("SmolLM2 is not in the cache of models: run looper demo once")
    tokenizer = _load(folder.parent)
    ids = tokenizer(text).input_ids
    ends = [len(tokenizer.decode(ids[: end + 1])) for end in range(len(ids))]
    sizes = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    content, calls, _ = parse_stream(tokenizer, cut(text, sizes), "auto")
    assert (content, calls) == parse_whole(tokenizer, text, "auto")


_load = cache(AutoTokenizer.from_pretrained)


def test_a_call_is_streamed_only_when_it_is_complete(tokenizer: Any) -> None:
    for end in range(len(CALL)):
        text = CALL[:end]
        content, calls, _ = parse_stream(tokenizer, list(text), "auto")
        if calls:
            assert calls == [("book", '{"room": "blue <b>"}')]
            json.loads(text.removeprefix("<tool_call>").partition("</tool")[0].rstrip("</tol_ca"))
        else:
            assert content == text


def test_text_is_streamed_at_once(tokenizer: Any) -> None:
    _, _, deltas = parse_stream(tokenizer, ["Hello", " world", " <b>", CALL], "auto")
    assert [delta.content for delta in deltas[:3]] == ["Hello", " world", " <b>"]
