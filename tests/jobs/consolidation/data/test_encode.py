import json
from pathlib import Path

import pytest

from looper.basemodel.chat_renderer import ChatRenderer
from looper.basemodel.parser_choice import choose_parsers
from looper.basemodel.turn_renderer import call_spans
from looper.jobs.consolidation.data.encode import ExampleEncoder
from looper.jobs.consolidation.data.window import Window
from looper.jobs.synthesis.draft import Draft
from looper.jobs.synthesis.output.render import render_example
from looper.jobs.synthesis.stages.weigh import weigh
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.example import Example, Turn
from looper.platform.domain.trajectory import ToolCall
from tests.jobs.episodes import episode
from tests.template_bases import template_base, write_template_base
from tests.tiny import PARSERS, TEMPLATE


@pytest.fixture(scope="module")
def renderer(base_dir: Path) -> ChatRenderer:
    return ChatRenderer(base_dir)


@pytest.fixture
def encoder(renderer: ChatRenderer) -> ExampleEncoder:
    return ExampleEncoder(renderer, PARSERS, 10_000)


def text(window: Window, encoder: ExampleEncoder, places: object = slice(None)) -> str:
    return str(encoder._renderer.tokenizer.decode(window.tokens[places].tolist()))


def targets(window: Window, encoder: ExampleEncoder) -> str:
    return text(window, encoder, window.weights > 0)


def example_of(*turns: Turn, tools: str | None = None) -> Example:
    return Example(id="e", trajectory_id="e", task_id="t", turns=turns, tools=tools)


def agent(content: str, *calls: tuple[str, str], reasoning: str = "") -> Turn:
    made = tuple(ToolCall(id=str(i), name=name, arguments=text) for i, (name, text) in enumerate(calls))
    return Turn(role="assistant", content=content, tool_calls=made, reasoning=reasoning, weight=1)


def asked(*turns: Turn) -> Example:
    return example_of(Turn(role="user", content="Hi."), *turns)


def long_example(turns: int) -> Example:
    done = [Turn(role="system", content="Rules. " * 20), Turn(role="user", content="Go."), agent("I go.")]
    for i in range(turns):
        observed = Turn(role="tool", content=f"observation {i} " * 5)
        done += [observed, agent(f"answer {i}", ("book", f'{{"day": {i}}}'))]
    return example_of(*done)


def test_the_mask_covers_the_agents_turns_and_nothing_else(encoder: ExampleEncoder) -> None:
    example = render_example(weigh(Draft.from_trajectory(episode(3), has_labels=True)))
    (window,) = encoder.encode(example)
    assert targets(window, encoder) == (
        '<tool_call>\n{"name": "book", "arguments": {"room": "blue", "day": "3"}}\n</tool_call><|im_end|>done<|im_end|>'
    )
    ((start, end),) = window.calls
    assert text(window, encoder, slice(start, end)) == (
        '<tool_call>\n{"name": "book", "arguments": {"room": "blue", "day": "3"}}\n</tool_call>'
    )


def test_a_window_is_what_the_template_renders(encoder: ExampleEncoder) -> None:
    example = render_example(weigh(Draft.from_trajectory(episode(3), has_labels=True)))
    (window,) = encoder.encode(example)
    call = {"name": "book", "arguments": {"room": "blue", "day": "3"}}
    messages = [
        {"role": "system", "content": "You book rooms."},
        {"role": "user", "content": "Book day 3. Please."},
        {"role": "assistant", "tool_calls": [{"function": call}]},
        {"role": "tool", "content": "ok"},
        {"role": "assistant", "content": "done"},
    ]
    tokenizer = encoder._renderer.tokenizer
    rendered = tokenizer.apply_chat_template(messages, tools=json.loads(example.tools or ""), tokenize=False)
    assert text(window, encoder) + "\n" == rendered


def test_several_calls_in_a_turn_have_a_span_each(encoder: ExampleEncoder) -> None:
    turn = agent("Both.", ("find", '{"name": "x"}'), ("find", '{"name": "x"}'), ("book", '{"day": 1}'))
    (window,) = encoder.encode(asked(turn))
    spans = [text(window, encoder, slice(start, end)).strip() for start, end in window.calls]
    assert [span.count("<tool_call>") for span in spans] == [1, 1, 1]
    assert '"find"' in spans[0]
    assert '"book"' in spans[2]


def test_arguments_are_learned_digit_for_digit(encoder: ExampleEncoder) -> None:
    (window,) = encoder.encode(asked(agent("", ("track", '{"number": 9400111899223346213487, "f": 1.10}'))))
    assert '{"number": 9400111899223346213487, "f": 1.1}' in targets(window, encoder)


@pytest.mark.parametrize("arguments", ["not json", "{'id': 1}", "[1]"])
def test_a_call_that_would_be_served_otherwise_is_left_out_alone(encoder: ExampleEncoder, arguments: str) -> None:
    (window,) = encoder.encode(asked(agent("", ("find", arguments)), Turn(role="tool", content="bad"), agent("Oh.")))
    assert targets(window, encoder) == "Oh.<|im_end|>"
    assert encoder.left_out == {"the engine would read other tool calls than were made": 1}


@pytest.mark.parametrize(
    "tools", ['{"a": 1}', '"x"', "7", "[1]", '[{"type": "function"}]', "[", '[{"function": null}]']
)
def test_an_example_whose_tools_the_engine_refuses_is_left_out(encoder: ExampleEncoder, tools: str) -> None:
    assert encoder.encode(asked(agent("Hello.")).model_copy(update={"tools": tools})) == []
    assert encoder.left_out == {"the engine refuses the messages or the tools": 1}


def test_call_spans_need_nothing_of_the_template() -> None:
    assert call_spans(["text.", "text[a].", "text[a][b]."]) == [(4, 7), (7, 10)]
    assert call_spans(["text."]) == []


@pytest.mark.parametrize("max_seq_length", [64, 100, 200, 333])
def test_a_long_example_becomes_windows_with_every_turn_a_target_once(
    renderer: ChatRenderer, encoder: ExampleEncoder, max_seq_length: int
) -> None:
    example = long_example(12)
    short = ExampleEncoder(renderer, PARSERS, max_seq_length)
    windows = short.encode(example)
    (whole,) = encoder.encode(example)
    assert len(windows) > 1
    assert all(len(window) <= max_seq_length for window in windows)
    system = text(whole, encoder, slice(8))
    assert all(text(window, encoder).startswith(system) for window in windows)
    learned = "".join(targets(window, encoder) for window in windows)
    assert learned.count("<tool_call>") == 12
    if max_seq_length >= 200:
        assert learned == targets(whole, encoder)
        assert sum(len(window.calls) for window in windows) == 12


def test_a_shortened_history_begins_with_the_task(renderer: ChatRenderer, encoder: ExampleEncoder) -> None:
    windows = ExampleEncoder(renderer, PARSERS, 200).encode(long_example(12))
    assert all("user\nGo.<|im_end|>" in text(window, encoder) for window in windows)
    assert "tool_call" in text(windows[-1], encoder, windows[-1].weights == 0), "the call that was answered"


def test_a_turn_longer_than_the_window_is_cropped(renderer: ChatRenderer) -> None:
    example = example_of(
        Turn(role="user", content="long request " * 50),
        agent("long answer " * 50, ("book", '{"day": 1}')),
        agent("end"),
    )
    short = ExampleEncoder(renderer, PARSERS, 64)
    first, *_ = short.encode(example)
    assert len(first) == 64
    assert first.targets == 32
    assert first.calls == ()
    assert short.cropped == 2


def test_where_a_template_rewrites_history_each_turn_is_a_window(tmp_path: Path) -> None:
    template = "{{ messages | length }}" + TEMPLATE.read_text()
    renderer = ChatRenderer(write_template_base(tmp_path, template, ["<|im_end|>"]))
    again = Turn(role="user", content="Again.")
    windows = ExampleEncoder(renderer, PARSERS, 500).encode(asked(agent("Hello."), again, agent("Hi.")))
    assert len(windows) == 2
    assert [window.targets > 0 for window in windows] == [True, True]


def test_what_a_template_refuses_is_left_out_and_counted(tmp_path: Path) -> None:
    template = TEMPLATE.read_text() + "{% if messages | length > 3 %}{{ raise_exception('too many') }}{% endif %}"
    renderer = ChatRenderer(write_template_base(tmp_path, template, ["<|im_end|>"]))
    encoder = ExampleEncoder(renderer, PARSERS, 500)
    again = Turn(role="user", content="Again.")
    (window,) = encoder.encode(asked(agent("Hello."), again, agent("Hi.")))
    assert targets(window, encoder) == "Hello.<|im_end|>"
    assert encoder.left_out == {"the chat template refuses it: too many": 1}


def test_a_template_without_an_end_of_turn_teaches_nothing(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    template += "{% if add_generation_prompt %}assistant: {% endif %}"
    renderer = ChatRenderer(write_template_base(tmp_path, template, ["<|im_end|>"]))
    encoder = ExampleEncoder(renderer, PARSERS, 500)
    assert encoder.encode(asked(agent("Hello."))) == []
    assert encoder.left_out == {"the chat template writes no token that ends the agent's turn": 1}


def test_a_base_without_a_template_is_refused(tmp_path: Path) -> None:
    folder = write_template_base(tmp_path, "", ["<|im_end|>"])
    with pytest.raises(InvalidInput, match=r"has no chat template .* put a chat_template.jinja into its folder"):
        ChatRenderer(folder)


@pytest.mark.parametrize(
    ("name", "learned"),
    [
        (
            "Qwen-Qwen3-0.6B",
            '<think>\nI see.\n</think>\n\n<tool_call>\n{"name": "find", "arguments": {"id": 1}}\n'
            "</tool_call><|im_end|>",
        ),
        (
            "GLM-4.6",
            "\n<think>I see.</think>\n<tool_call>find\n<arg_key>id</arg_key>\n<arg_value>1</arg_value>\n"
            "</tool_call><|observation|>",
        ),
        ("meta-llama-Llama-3.1-8B-Instruct", '{"name": "find", "parameters": {"id": 1}}<|eot_id|>'),
        (
            "mistralai-Mistral-Nemo-Instruct-2407",
            '[TOOL_CALLS][{"name": "find", "arguments": {"id": 1}, "id": "call00001"}]</s>',
        ),
    ],
)
def test_a_call_is_learned_in_the_form_of_the_base(name: str, learned: str, tmp_path: Path) -> None:
    renderer = ChatRenderer(template_base(tmp_path / name, name))
    encoder = ExampleEncoder(renderer, choose_parsers(renderer), 10_000)
    call = ToolCall(id="call00001", name="find", arguments='{"id": 1}')
    turn = Turn(role="assistant", tool_calls=(call,), reasoning="I see.", weight=1)
    tool = {
        "name": "find",
        "description": "Find.",
        "parameters": {"type": "object", "properties": {"id": {"type": "integer"}}},
    }
    example = example_of(
        Turn(role="user", content="Hi."), turn, tools=json.dumps([{"type": "function", "function": tool}])
    )
    (window,) = encoder.encode(example)
    assert targets(window, encoder) == learned


def test_reasoning_is_learned_masked_or_dropped(tmp_path: Path) -> None:
    renderer = ChatRenderer(template_base(tmp_path / "qwen", "Qwen-Qwen3-0.6B"))
    parsers = choose_parsers(renderer)
    found = {}
    for reasoning in ("learn", "mask", "drop"):
        encoder = ExampleEncoder(renderer, parsers, 10_000, reasoning)
        (window,) = encoder.encode(asked(agent("Hello.", reasoning="I greet.")))
        found[reasoning] = targets(window, encoder)
    assert found == {
        "learn": "<think>\nI greet.\n</think>\n\nHello.<|im_end|>",
        "mask": "<think>\n\n</think>\n\nHello.<|im_end|>",
        "drop": "<think>\n\n</think>\n\nHello.<|im_end|>",
    }
