import json

import pytest

from looper.jobs.consolidation.evaluation.call_prefix import CallPrefix, is_invalid_call, is_repeated_call

TOOLS = json.dumps(
    [
        {"type": "function", "function": {"name": "book", "parameters": {"properties": {"room": {}, "day": {}}}}},
        {"type": "function", "function": {"name": "find it", "parameters": {"type": "object", "properties": {}}}},
        {"name": "shout", "parameters": {"properties": {}, "additionalProperties": True}},
    ]
)


def call(name: str = "book", **arguments: object) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


TRUE = call(room="blue", day="3")


def said(beginning: str, true: str = TRUE, before: str | None = None, tools: str | None = TOOLS) -> CallPrefix:
    return CallPrefix(said=beginning, true=true, before=before, tools=tools)


@pytest.mark.parametrize(
    ("after_name", "broken"),
    [
        ('boo"', True),
        ("bool", True),
        ("fi", False),
        ("find it", False),
        ("find the", True),
        ('book", "arguments": {"d', False),
        ('book", "arguments": {"n', True),
        ('book", "arguments": {"room": "red', False),
        ('book", "arguments": {"room": [{"a": 1', False),
        ('book", "arguments": {"room": "blue"}}\n', False),
        ('book", "arguments": {"room": "blue",}', True),
        ('book", "arguments": {"room": "bl\0', True),
        ('book", "arguments": {"room": "blue", "day": "3"}}\0', False),
    ],
)
def test_a_beginning_breaks_where_no_valid_call_can_come_of_it(after_name: str, broken: bool) -> None:
    assert is_invalid_call(said('<tool_call>\n{"name": "' + after_name)) is broken


def test_a_right_call_and_text_in_its_place_break_nothing() -> None:
    assert is_invalid_call(said(TRUE)) is False
    assert is_invalid_call(said("Sure")) is False
    assert is_invalid_call(said("\0")) is False


def test_a_tool_without_listed_arguments_takes_any() -> None:
    true = call("shout", words="hey")
    assert is_invalid_call(said(true.replace("words", "loud")[:50], true)) is False
    nothing = call("find it")
    assert is_invalid_call(said(nothing.replace("{}", '{"'), nothing)) is True


@pytest.mark.parametrize("tools", [None, "[]", "[1]", '[{"function": {}}]', "no json"])
def test_without_a_list_of_tools_only_the_form_is_judged(tools: str | None) -> None:
    assert is_invalid_call(said('<tool_call>\n{"name": "anything', tools=tools)) is False
    assert is_invalid_call(said('<tool_call>\n{"name": 3', tools=tools)) is True


@pytest.mark.parametrize("true", ["<function=book><room>blue</room>", call("gone", a=1), '{"tool": "book"}'])
def test_calls_in_another_form_are_not_judged(true: str) -> None:
    assert is_invalid_call(said("x", true)) is None


def test_a_long_list_and_deep_arguments_take_no_time() -> None:
    deep = call("shout", words=json.loads("[" * 100 + "]" * 100), more="x" * 5000)
    assert is_invalid_call(said(deep[:-30] + "!}", deep)) is False
    assert is_invalid_call(said(deep.replace("]]", "]!", 1), deep)) is True


@pytest.mark.parametrize(
    ("beginning", "before", "loop"),
    [
        ('<tool_call>\n{"name": "book", "arguments": {"room": "blue", "day": "2', call(room="blue", day="2"), True),
        ('<tool_call>\n{"name": "book", "arguments": {"room": "blue", "day": "4', call(room="blue", day="2"), False),
        ('<tool_call>\n{"name": "find', "\n" + call("find it"), True),
        ('<tool_call>\n{"name": "find', call("shout"), False),
        (TRUE, call(room="blue", day="2"), False),
        (TRUE, TRUE, False),
        ("\n", "\n" + call("find it"), False),
        ('<tool_call>\n{"name": "find', None, False),
    ],
)
def test_a_call_repeats_where_it_departs_as_the_one_before_went_on(
    beginning: str, before: str | None, loop: bool
) -> None:
    assert is_repeated_call(said(beginning, before=before)) is loop
