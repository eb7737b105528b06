"""Encode examples as windows of tokens with a loss mask, as the engine would be asked and would have to answer.

A window begins with the prompt of a turn. The next turn joins it if its prompt begins with all that the window has, as
it does with templates that only append. Otherwise the template rewrites history, and the turn gets a window of its own.
Synthesis encodes, and trainers read the windows.
"""

from collections import Counter
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path
from typing import Any, Self

from looper.basemodel.answer_reader import AnswerReader, parse_arguments
from looper.basemodel.chat_renderer import ChatRenderer, Conversation, TokenizedText, Unrenderable
from looper.basemodel.turn_renderer import RenderedTurn, TurnRenderer
from looper.jobs.consolidation.data.window import Span, Window
from looper.platform.adapters.base_revision import Parsers, read_base_manifest
from looper.platform.domain.example import Example, Turn
from looper.platform.settings.models import Reasoning

HEAD_SHARE = 4
"""A prompt that is longer than a window keeps a quarter of its room for its beginning, and the rest for its end."""


class ExampleEncoder:
    """Encodes examples one by one, and leaves out turns that cannot be encoded. One bad turn costs that turn.

    Attributes:
        left_out: Number of turns that were left out, by reason. The reasons name no example.
        cropped: Number of turns that do not fit into a window with their prompt.
    """

    def __init__(
        self, renderer: ChatRenderer, parsers: Parsers, max_seq_length: int, reasoning: Reasoning | None = None
    ) -> None:
        """Make an encoder.

        Args:
            renderer: Renderer of the base model.
            parsers: How the engine reads the base model's answers.
            max_seq_length: Maximum tokens of a window.
            reasoning: What happens to reasoning. None: it is learned if the engine reads it, or else left out.
        """
        self._renderer = renderer
        self._turns = TurnRenderer(renderer)
        self._reader = AnswerReader(renderer, parsers)
        self._parsers = parsers
        self._max_seq_length = max_seq_length
        self._reasoning = reasoning or ("learn" if parsers.reasoning_parser else "drop")
        self.left_out: Counter[str] = Counter()
        self.cropped = 0

    @classmethod
    def open(cls, folder: Path, max_seq_length: int, reasoning: Reasoning | None = None) -> Self:
        """Make an encoder for the base model in a folder.

        Args:
            folder: Folder of the base model, as ``looper.basemodel.prepare`` returned it.
            max_seq_length: Maximum tokens of a window.
            reasoning: As for the constructor.

        Returns:
            The encoder.
        """
        return cls(ChatRenderer(folder), read_base_manifest(folder).parsers, max_seq_length, reasoning)

    def encode(self, example: Example) -> list[Window]:
        """Encode one example.

        A turn whose prompt and answer do not fit into a window gets the messages up to the first one of the user, and
        then those from the agent's previous turn on. If that does not fit either, the prompt loses its middle, and an
        answer that takes more than half of a window loses its end.

        Args:
            example: The example.

        Returns:
            Its windows, each of at most ``max_seq_length`` tokens. Each turn with a weight is a target of one window.
        """
        targets = [index for index, turn in enumerate(example.turns) if turn.weight > 0]
        try:
            conversation = self._renderer.parse([self._message(turn) for turn in example.turns], example.tools)
        except Unrenderable as error:
            self.left_out[str(error)] += len(targets)
            return []
        builder = _WindowBuilder(self._max_seq_length)
        head = _count_head(conversation.messages)
        first = 0  # of the messages after the head in the history
        for index in targets:
            turn = example.turns[index]
            try:
                rendered = self._render(conversation, head, first, index, builder.known)
                if len(rendered.prompt.tokens) + len(rendered.answer) > self._max_seq_length:
                    first = _find_previous_turn(conversation.messages, head, index)
                    rendered = self._render(conversation, head, first, index, None)
                self._check_reading(conversation, rendered, turn)
            except MemoryError:  # not a property of the turn
                raise
            except Unrenderable as error:
                self.left_out[str(error)] += 1
            except Exception as error:  # templates and parsers are programs: any type may come out of one
                self.left_out[f"unexpected {type(error).__name__}"] += 1
            else:
                self.cropped += len(rendered.prompt.tokens) + len(rendered.answer) > self._max_seq_length
                builder.add(rendered, turn.weight, mask_reasoning=self._reasoning == "mask")
        return builder.finish()

    def encode_all(self, examples: Iterable[Example]) -> list[Window]:
        """Return the windows of all ``examples``."""
        return [window for example in examples for window in self.encode(example)]

    def encode_answers(self, prefix: Iterable[Turn], turns: Iterable[Turn], tools: str | None) -> list[Window]:
        """Encode several answers to the same history, each as a window of its own, of any length.

        Args:
            prefix: The turns before.
            turns: The agent's turns.
            tools: The agent's tool list as JSON text.

        Returns:
            A window for each of ``turns``, with weight 1.

        Raises:
            Unrenderable: If one of them cannot be encoded.
        """
        windows, before = [], list(prefix)
        for turn in turns:
            conversation = self._renderer.parse([self._message(each) for each in (*before, turn)], tools)
            *history, message = conversation.messages
            rendered = self._turns.render(conversation, history, message)
            self._check_reading(conversation, rendered, turn)
            builder = _WindowBuilder(len(rendered.prompt.tokens) + len(rendered.answer))
            builder.add(rendered, 1.0, mask_reasoning=self._reasoning == "mask")
            windows += builder.finish()
        return windows

    def _render(
        self, conversation: Conversation, head: int, first: int, index: int, known: TokenizedText | None
    ) -> RenderedTurn:
        messages = conversation.messages
        history = messages[:head] + messages[max(head, first) : index] if index > head else messages[:index]
        return self._turns.render(conversation, history, messages[index], known)

    def _check_reading(self, conversation: Conversation, rendered: RenderedTurn, turn: Turn) -> None:
        """Check that the engine would read the turn in its answer. Raises Unrenderable."""
        calls = [(call.name, parse_arguments(call.arguments)) for call in turn.tool_calls]
        if calls and self._parsers.tool_call_parser is None:
            raise Unrenderable("no parser of the engine reads the tool calls of this base model")
        answer = self._reader.read(conversation, rendered.answer, [_call_message(call) for call in turn.tool_calls])
        if answer.calls != calls:
            several = " in a turn with several" if len(calls) > 1 else ""
            raise Unrenderable(f"the engine would read other tool calls than were made{several}")
        if answer.content.split() != turn.content.split():
            raise Unrenderable("the engine would read other text than was written")

    def _message(self, turn: Turn) -> dict[str, Any]:
        """Return ``turn`` as a client sends it."""
        message: dict[str, Any] = {"role": turn.role, "content": turn.content}
        if turn.tool_calls:
            message["tool_calls"] = [_call_message(call) for call in turn.tool_calls]
        if turn.call_id is not None:
            message["tool_call_id"] = turn.call_id
        if turn.reasoning and self._reasoning != "drop":
            message["reasoning"] = turn.reasoning
        return message


class _WindowBuilder:
    """Puts turns into windows."""

    def __init__(self, max_seq_length: int) -> None:
        self._max_seq_length = max_seq_length
        self._finished: list[Window] = []
        self._tokens: list[int] = []
        self._weights: list[float] = []
        self._calls: list[Span] = []
        self.known: TokenizedText | None = None
        """The last prompt."""

    def add(self, turn: RenderedTurn, weight: float, *, mask_reasoning: bool) -> None:
        """Add a turn to the last window, if its prompt continues it, or else to a new one."""
        self.known = turn.prompt
        prompt, answer, calls = turn.prompt.tokens, turn.answer, turn.calls
        weights = [weight] * len(answer)
        if mask_reasoning:
            start, end = turn.reasoning
            weights[start:end] = [0.0] * (end - start)
        if len(prompt) + len(answer) > self._max_seq_length:
            room = self._max_seq_length - min(len(prompt), self._max_seq_length // 2)
            answer, weights = answer[:room], weights[:room]
            calls = [(start, end) for start, end in calls if end <= room]
            prompt = _crop(prompt, self._max_seq_length - len(answer))
        if not any(weights):
            return
        if prompt[: len(self._tokens)] != self._tokens:
            self._finish_window()
        self._weights += [0.0] * (len(prompt) - len(self._tokens)) + weights
        self._calls += [(len(prompt) + start, len(prompt) + end) for start, end in calls]
        self._tokens = prompt + answer

    def finish(self) -> list[Window]:
        """Return all windows."""
        self._finish_window()
        return self._finished

    def _finish_window(self) -> None:
        if self._tokens:
            self._finished.append(Window.of(self._tokens, self._weights, self._calls))
        self._tokens, self._weights, self._calls = [], [], []


def _crop(prompt: list[int], size: int) -> list[int]:
    """Return the beginning and the end of a prompt, ``size`` tokens together."""
    if len(prompt) <= size:
        return prompt
    head = size // HEAD_SHARE
    return prompt[:head] + prompt[len(prompt) - (size - head) :]


def _count_head(messages: list[dict[str, Any]]) -> int:
    """Return how many messages open the conversation: instructions, and the first message of the user after them."""
    roles = [message["role"] for message in messages]
    count = len(list(takewhile(lambda role: role in ("system", "developer"), roles)))
    return count + 1 if roles[count : count + 1] == ["user"] else count


def _find_previous_turn(messages: list[dict[str, Any]], head: int, index: int) -> int:
    """Return the index of the agent's turn before ``index``: what follows answers it."""
    before = (number for number in range(index - 1, head - 1, -1) if messages[number]["role"] == "assistant")
    return next(before, head)


def _call_message(call: Any) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
