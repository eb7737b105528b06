import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from looper.jobs.consolidation.data.encode import Window, call_spans, encode_example
from looper.jobs.synthesis.draft import Draft
from looper.jobs.synthesis.output.render import render_example
from looper.jobs.synthesis.stages.weigh import weigh
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.example import Example, Turn
from looper.platform.domain.trajectory import ToolCall
from tests.jobs.episodes import episode


@pytest.fixture(scope="module")
def tokenizer(base_dir: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(base_dir)


def targets(window: Window, tokenizer: PreTrainedTokenizerBase) -> str:
    tokens = [token for token, weight in zip(window.tokens, window.weights, strict=True) if weight]
    return str(tokenizer.decode(tokens))


def example_of(*turns: Turn, tools: str | None = None) -> Example:
    return Example(id="e", trajectory_id="e", task_id="t", turns=turns, tools=tools)


def agent(content: str, *calls: tuple[str, str]) -> Turn:
    made = tuple(ToolCall(id=str(i), name=name, arguments=text) for i, (name, text) in enumerate(calls))
    return Turn(role="assistant", content=content, tool_calls=made, weight=1)


def asked(*turns: Turn) -> Example:
    return example_of(Turn(role="user", content="Hi."), *turns)


def long_example(turns: int) -> Example:
    done = [Turn(role="system", content="Rules. " * 20), Turn(role="user", content="Go."), agent("I go.")]
    for i in range(turns):
        observed = Turn(role="tool", content=f"observation {i} " * 5)
        done += [observed, agent(f"answer {i}", ("book", f'{{"day": {i}}}'))]
    return example_of(*done)


def test_the_mask_covers_the_agents_turns_and_nothing_else(tokenizer: PreTrainedTokenizerBase) -> None:
    example = render_example(weigh(Draft.from_trajectory(episode(3), has_labels=True)))
    assert example is not None
    (window,) = encode_example(example, tokenizer, 256)
    assert targets(window, tokenizer) == (
        '<tool_call>\n{"name": "book", "arguments": {"room": "blue", "day": "3"}}\n</tool_call><|im_end|>done<|im_end|>'
    )
    ((start, end),) = window.calls
    assert tokenizer.decode(window.tokens[start:end]) == (
        '<tool_call>\n{"name": "book", "arguments": {"room": "blue", "day": "3"}}\n</tool_call>'
    )


def test_a_window_is_what_the_template_renders(tokenizer: PreTrainedTokenizerBase) -> None:
    example = render_example(weigh(Draft.from_trajectory(episode(3), has_labels=True)))
    assert example is not None
    (window,) = encode_example(example, tokenizer, 256)
    call = {"name": "book", "arguments": {"room": "blue", "day": "3"}}
    messages = [
        {"role": "system", "content": "You book rooms."},
        {"role": "user", "content": "Book day 3. Please."},
        {"role": "assistant", "tool_calls": [{"function": call}]},
        {"role": "tool", "content": "ok"},
        {"role": "assistant", "content": "done"},
    ]
    rendered = tokenizer.apply_chat_template(messages, tools=json.loads(example.tools or ""), tokenize=False)
    assert tokenizer.decode(window.tokens) == rendered


def test_the_first_target_follows_exactly_the_prompt_of_generation(tokenizer: PreTrainedTokenizerBase) -> None:
    (window,) = encode_example(asked(agent("Hello.")), tokenizer, 64)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi."}], tokenize=False, add_generation_prompt=True
    )
    start = next(i for i, weight in enumerate(window.weights) if weight)
    assert list(window.tokens[:start]) == tokenizer(prompt, add_special_tokens=False)["input_ids"]


def test_several_calls_in_a_turn_have_a_span_each(tokenizer: PreTrainedTokenizerBase) -> None:
    turn = agent("Both.", ("find", '{"name": "x"}'), ("find", '{"name": "x"}'), ("book", "not json"))
    (window,) = encode_example(example_of(Turn(role="user", content="Do."), turn), tokenizer, 256)
    spans = [str(tokenizer.decode(window.tokens[start:end])).strip() for start, end in window.calls]
    assert [span.count("<tool_call>") for span in spans] == [1, 1, 1]
    assert '"find"' in spans[0]
    assert '"book"' in spans[2]


def test_call_spans_need_nothing_of_the_template() -> None:
    assert call_spans(["text.", "text[a].", "text[a][b]."]) == [(4, 7), (7, 10)]
    assert call_spans(["text."]) == []


@pytest.mark.parametrize("max_seq_length", [64, 100, 200, 333])
def test_a_long_example_becomes_windows_with_every_turn_a_target_once(
    tokenizer: PreTrainedTokenizerBase, max_seq_length: int
) -> None:
    example = long_example(12)
    windows = encode_example(example, tokenizer, max_seq_length)
    (whole,) = encode_example(example, tokenizer, 10_000)
    assert len(windows) > 1
    assert all(len(window) <= max_seq_length for window in windows)
    system = tokenizer("<|im_start|>system\nRules.", add_special_tokens=False)["input_ids"]
    assert all(list(window.tokens[: len(system)]) == system for window in windows)
    learned = "".join(targets(window, tokenizer) for window in windows)
    assert learned.count("<tool_call>") == 12
    if max_seq_length >= 200:
        assert learned == targets(whole, tokenizer)
        assert sum(len(window.calls) for window in windows) == 12


def test_a_turn_longer_than_the_window_is_cropped(tokenizer: PreTrainedTokenizerBase) -> None:
    example = example_of(
        Turn(role="user", content="long request " * 50),
        agent("long answer " * 50, ("book", '{"day": 1}')),
        agent("end"),
    )
    first, *_ = encode_example(example, tokenizer, 64)
    assert len(first) == 64
    assert first.targets == 32
    assert first.calls == ()


def test_a_template_that_rewrites_the_past_is_refused(tokenizer: PreTrainedTokenizerBase, base_dir: Path) -> None:
    rewriting = AutoTokenizer.from_pretrained(base_dir)
    rewriting.chat_template = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(InvalidInput, match="not prefix-stable"):
        encode_example(asked(agent("Hello.")), rewriting, 64)


def test_a_template_that_refuses_an_example_is_named(base_dir: Path) -> None:
    strict = AutoTokenizer.from_pretrained(base_dir)
    strict.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(InvalidInput, match="roles must alternate"):
        encode_example(asked(agent("Hello.")), strict, 64)


def test_a_template_that_drops_tool_calls_is_refused(base_dir: Path) -> None:
    dropping = AutoTokenizer.from_pretrained(base_dir)
    dropping.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(InvalidInput, match="does not render the agent's tool calls"):
        encode_example(asked(agent("Hello.", ("book", "{}"))), dropping, 64)
