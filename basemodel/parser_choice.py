"""Chooses vLLM's parsers for a base model: those that read back what its chat template writes.

``prepare`` writes the choice into the base model's folder. Engines, synthesis and ``looper doctor`` read it there.
"""

import json
import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager

from looper.basemodel.answer_reader import AnswerReader
from looper.basemodel.chat_renderer import ChatRenderer, Unrenderable
from looper.basemodel.turn_renderer import RenderedTurn, TurnRenderer
from looper.platform.adapters.base_revision import Parsers
from looper.platform.domain.errors import InvalidInput

AUTO, NONE = "auto", "none"
"""Instead of a parser's name: the one that reads back what the template writes, or no parser."""

_PREFERRED = ("hermes", "llama3_json", "mistral", "qwen3_coder", "glm45", "granite4", "granite", "kimi_k2", "pythonic")
"""Tried first, because several parsers read some forms and these are the ones that vLLM documents for them."""

_TOOLS = json.dumps(
    [
        {
            "type": "function",
            "function": {
                "name": name,
                "description": f"{name} something",
                "parameters": {"type": "object", "properties": {key: {"type": "string"}}, "required": [key]},
            },
        }
        for name, key in (("find", "query"), ("book_room", "day"))
    ]
)
_CALLS = [("find", {"query": 'the "blue" room, 5 €'}), ("book_room", {"day": "Monday"})]
_REASONING = "They want a room."


def choose_parsers(renderer: ChatRenderer, tool_call_parser: str = AUTO, reasoning_parser: str = AUTO) -> Parsers:
    """Choose the parsers of a base model.

    Args:
        renderer: Renderer of the base model.
        tool_call_parser: vLLM's name of the parser for tool calls, "none", or "auto" for the one that reads back what
            the template writes.
        reasoning_parser: The same for reasoning.

    Returns:
        The parsers.

    Raises:
        InvalidInput: If vLLM has no parser of that name.
    """
    turns = TurnRenderer(renderer)
    if reasoning_parser == AUTO:
        reasoning = _choose_reasoning_parser(renderer, turns)
    else:
        names = ReasoningParserManager.list_registered()
        reasoning = _check_name("reasoning_parser", reasoning_parser, names)
    found = Parsers(reasoning_parser=reasoning)
    if tool_call_parser == AUTO:
        return _choose_tool_call_parser(renderer, turns, found)
    name = _check_name("tool_call_parser", tool_call_parser, ToolParserManager.list_registered())
    found = found.model_copy(update={"tool_call_parser": name})
    single = _render(renderer, turns, [_CALLS[0]])
    if name is None or single is None or not single[1].calls:
        return found
    update = {
        "tool_call_start": _find_start(renderer, single[1]),
        "parallel_calls": _reads_back(renderer, found, turns, _CALLS),
    }
    return found.model_copy(update=update)


def _check_name(setting: str, name: str, known: list[str]) -> str | None:
    """Return the name of a parser, None for "none"."""
    if name == NONE:
        return None
    if name not in known:
        raise InvalidInput(
            f"vLLM has no {setting} {name!r}: set LOOPER_SERVE__{setting.upper()} to {AUTO}, {NONE}, or one of "
            f"{', '.join(sorted(known))}"
        )
    return name


def _choose_tool_call_parser(renderer: ChatRenderer, turns: TurnRenderer, found: Parsers) -> Parsers:
    single = _render(renderer, turns, [_CALLS[0]])
    if single is None or not single[1].calls:
        return found
    for name in _order(ToolParserManager.list_registered()):
        parsers = found.model_copy(update={"tool_call_parser": name})
        if _reads_back(renderer, parsers, turns, [_CALLS[0]]) and _reads_back(renderer, parsers, turns, [_CALLS[1]]):
            found_more = {
                "tool_call_start": _find_start(renderer, single[1]),
                "parallel_calls": _reads_back(renderer, parsers, turns, _CALLS),
            }
            return parsers.model_copy(update=found_more)
    return found


def _choose_reasoning_parser(renderer: ChatRenderer, turns: TurnRenderer) -> str | None:
    rendered = _render(renderer, turns, [], reasoning=_REASONING)
    if rendered is None or rendered[1].reasoning == (0, 0):
        return None
    for name in _order(ReasoningParserManager.list_registered(), first=("qwen3", "deepseek_r1")):
        parsers = Parsers(reasoning_parser=name)
        if all(_reads_back(renderer, parsers, turns, [], reasoning=reasoning) for reasoning in (_REASONING, None)):
            return name
    return None


def _order(names: list[str], first: tuple[str, ...] = _PREFERRED) -> Iterator[str]:
    yield from (name for name in first if name in names)
    yield from (name for name in sorted(names) if name not in first and not name.startswith("looper_"))


def _render(
    renderer: ChatRenderer, turns: TurnRenderer, calls: list[tuple[str, Any]], reasoning: str | None = None
) -> tuple[Any, RenderedTurn] | None:
    """Render a turn with ``calls``. None, if the template refuses it."""
    turn: dict[str, Any] = {"role": "assistant", "content": "" if calls else "It is booked."}
    if calls:
        turn["tool_calls"] = [
            {
                "id": f"call0000{number}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(arguments)},
            }
            for number, (name, arguments) in enumerate(calls)
        ]
    if reasoning:
        turn["reasoning"] = reasoning
    try:
        conversation = renderer.parse([{"role": "user", "content": "A room, please."}, turn], _TOOLS)
        *history, parsed = conversation.messages
        return conversation, turns.render(conversation, history, parsed)
    except Unrenderable:
        return None


def _reads_back(
    renderer: ChatRenderer,
    parsers: Parsers,
    turns: TurnRenderer,
    calls: list[tuple[str, Any]],
    reasoning: str | None = None,
) -> bool:
    """Tell whether the parsers read what the template writes for a turn."""
    rendered = _render(renderer, turns, calls, reasoning)
    if rendered is None:
        return False
    conversation, turn = rendered
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # a parser of another base logs what it cannot read, with a traceback
    try:
        with suppress(Exception):  # whatever a parser of another base raises, it is not the one
            answer = AnswerReader(renderer, parsers).read(conversation, turn.answer, [])
            content = "" if calls else "It is booked."
            return (
                answer.calls == calls
                and answer.content.strip() == content
                and (parsers.reasoning_parser is None or answer.reasoning.strip() == (reasoning or ""))
            )
    finally:
        logging.disable(level)
    return False


def _find_start(renderer: ChatRenderer, turn: RenderedTurn) -> str:
    """Return the text with which calls begin: a tag, or a single character where calls have no tag."""
    start, end = turn.calls[0]
    text = renderer.tokenizer.decode(turn.answer[start:end], skip_special_tokens=False).lstrip()
    tag = re.match(r"<[^<>\s]+>|\[[A-Z_]+\]|.", text)
    assert tag is not None, "a call is not empty"
    return tag.group()
