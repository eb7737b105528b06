"""Tool parsers whose streamed result is the same as the whole one. ``SkillServer`` registers its base model's.

vLLM's parsers read a stream differently than a whole text. A call that ``max_tokens`` cut came as a call without its
arguments, text that could have become a call was lost, and arguments before the name came out mangled. Here the parser
for whole texts decides in both cases. Text is streamed up to the place where a call may begin. What follows is held
back until the end, because only then is it known whether it is a call or text.
"""

from typing import Any

from vllm.entrypoints.chat_utils import make_tool_call_id
from vllm.entrypoints.generate.base.protocol import DeltaFunctionCall, DeltaMessage, DeltaToolCall
from vllm.tool_parsers.abstract_tool_parser import ToolParserManager
from vllm.tool_parsers.utils import partial_tag_overlap

from looper.serve.engine.engine_arguments import streaming_parser_name


class WholeTextStreaming:
    """Streams what a parser makes of the whole text. Comes before one of vLLM's parsers among the base classes."""

    call_start: str
    """Text with which every call begins, and before which the parser for whole texts leaves the content as it is."""
    engine_based_streaming = True
    """vLLM calls ``finish_streaming`` at the end of the stream."""
    _request: Any = None
    _text = ""
    _start: int | None = None
    _sent = 0

    def extract_tool_calls(self, model_output: str, request: Any) -> Any:
        """Parse a whole text.

        Args:
            model_output: The generated text.
            request: The request.

        Returns:
            The calls and the content, as vLLM's parser does.
        """
        result = super().extract_tool_calls(model_output, request)  # type: ignore[misc]
        if request.tool_choice == "none":
            # vLLM ignores the calls of this result, and returns its content.
            result.content = model_output
        return result

    def extract_tool_calls_streaming(
        self,
        previous_text: str,
        current_text: str,
        delta_text: str,
        previous_token_ids: Any,
        current_token_ids: Any,
        delta_token_ids: Any,
        request: Any,
    ) -> DeltaMessage | None:
        """Return the new text that cannot belong to a call.

        Args:
            previous_text: Not used. Of the arguments, only those that are used are the same in all of vLLM's modes.
            current_text: Not used.
            delta_text: The new text.
            previous_token_ids: Not used.
            current_token_ids: Not used.
            delta_token_ids: Not used.
            request: The request.

        Returns:
            The text. None, if there is none.
        """
        searched = len(self._text)
        self._request, self._text = request, self._text + delta_text
        if request.tool_choice == "none":
            return self._send_until(len(self._text))
        if self._start is None:
            # What was searched before may end with the beginning of a start.
            start = self._text.find(self.call_start, max(0, searched - len(self.call_start)))
            if start >= 0:
                self._start = start
        if self._start is not None:
            end = self._start
        else:
            end = len(self._text) - partial_tag_overlap(self._text, self.call_start)
        # White space before a call is no content.
        return self._send_until(end) if self._sent or self._text[:end].strip() else None

    def finish_streaming(self) -> DeltaMessage | None:
        """Return what was held back: the calls, or the text. vLLM calls it at the end of the stream.

        Returns:
            The rest of the message. None, if there is none.
        """
        if self._request is None or self._request.tool_choice == "none":
            return None
        result = self.extract_tool_calls(self._text, self._request)
        if not result.tools_called:
            return self._send_until(len(self._text))
        content = result.content if result.content and result.content.strip() else ""
        rest = content[self._sent :] or None
        self._sent = len(self._text)
        calls = [
            DeltaToolCall(
                index=index,
                type="function",
                id=call.id or make_tool_call_id(),
                function=DeltaFunctionCall(name=call.function.name, arguments=call.function.arguments),
            )
            for index, call in enumerate(result.tool_calls)
        ]
        return DeltaMessage(content=rest, tool_calls=calls)

    def _send_until(self, end: int) -> DeltaMessage | None:
        if end <= self._sent:
            return None
        text = self._text[self._sent : end]
        self._sent = end
        return DeltaMessage(content=text)


def register(parser: str, call_start: str) -> None:
    """Register one of vLLM's parsers with ``WholeTextStreaming``, as ``streaming_parser_name`` says.

    Args:
        parser: vLLM's name of the parser.
        call_start: Text with which every call begins.
    """
    vllm_parser = ToolParserManager.get_tool_parser(parser)
    streaming = type(f"Streaming{vllm_parser.__name__}", (WholeTextStreaming, vllm_parser), {"call_start": call_start})
    ToolParserManager.register_module(streaming_parser_name(parser), force=True, module=streaming)
