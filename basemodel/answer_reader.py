"""Reads answers as the engine does: with vLLM's parsers for reasoning and tool calls."""

import json
import logging
from dataclasses import dataclass
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionToolsParam
from vllm.parser import ParserManager

from looper.basemodel.chat_renderer import ChatRenderer, Conversation
from looper.platform.adapters.base_revision import Parsers


@dataclass(frozen=True)
class Answer:
    """An answer as a client of the endpoint gets it."""

    reasoning: str
    """The reasoning."""
    content: str
    """The text."""
    calls: list[tuple[str, Any]]
    """Name and arguments of each tool call. The arguments are parsed if they are JSON, or else the text."""


class AnswerReader:
    """Reads the answers of one base model."""

    def __init__(self, renderer: ChatRenderer, parsers: Parsers) -> None:
        """Load the parsers.

        Args:
            renderer: Renderer of the base model.
            parsers: Names of the parsers.
        """
        logging.getLogger("vllm.tool_parsers").setLevel(logging.CRITICAL)  # an answer without a call is no error here
        self._renderer = renderer
        self._parser = ParserManager.get_parser(
            parsers.tool_call_parser, parsers.reasoning_parser, enable_auto_tools=parsers.tool_call_parser is not None
        )

    def read(self, conversation: Conversation, tokens: list[int], expected: list[dict[str, Any]]) -> Answer:
        """Read an answer.

        Args:
            conversation: Gives the tools.
            tokens: Tokens of the answer.
            expected: The turn's tool calls. If the conversation has no tools, these tools count as known.

        Returns:
            The answer.
        """
        request = conversation.request
        if expected and request.tools is None:
            tools = [_describe_tool(call) for call in expected]
            request = request.model_copy(update={"tools": tools, "tool_choice": "auto"})
        tokens = [token for token in tokens if token not in self._renderer.stop_tokens]
        if self._parser is None:
            return Answer("", self._renderer.tokenizer.decode(tokens, skip_special_tokens=True), [])
        parser = self._parser(self._renderer.tokenizer, request.tools, model_config=self._renderer.model_config)
        request = parser.adjust_request(request.model_copy())
        text = self._renderer.tokenizer.decode(tokens, skip_special_tokens=request.skip_special_tokens)
        reasoning, content, calls = parser.parse(text, request, enable_auto_tools=True, model_output_token_ids=tokens)
        return Answer(
            reasoning or "",
            content or "",
            [(call.name, parse_arguments(call.arguments)) for call in calls or []],
        )


def parse_arguments(text: str) -> Any:
    """Return the value of JSON text, or the text itself if it is not JSON."""
    try:
        return json.loads(text)  # not orjson, which reads integers from 2^64 on as floats
    except ValueError:
        return text


def _describe_tool(call: dict[str, Any]) -> ChatCompletionToolsParam:
    function = {"name": call["function"]["name"], "parameters": {"type": "object"}}
    return ChatCompletionToolsParam.model_validate({"type": "function", "function": function})
