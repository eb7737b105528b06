"""Encode examples as windows of tokens with a loss mask, through the base model's own chat template.

The mask needs no ``{% generation %}`` in the template. For each of the agent's turns, the prompt is rendered as it is
for generation, and then once more with the turn: what the second rendering adds is the turn. Each piece is tokenized by
itself, so the agent's first token is predicted from exactly the tokens that generation starts from. The trainer calls
it when a member joins.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import orjson
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.example import Example, Turn


@dataclass(frozen=True)
class Window:
    """One training sequence of T tokens."""

    tokens: tuple[int, ...]
    """Token ids, ``[T]``."""
    weights: tuple[float, ...]
    """``weights[i]`` multiplies the loss of predicting ``tokens[i]``; 0 for context."""
    calls: tuple[tuple[int, int], ...]
    """Half-open token spans of the agent's tool calls, for evaluating next actions."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def target_places(self) -> list[int]:
        """Indices of the tokens that have a loss. The first token never has one, because nothing comes before it."""
        return [place for place, weight in enumerate(self.weights) if weight > 0 and place > 0]

    @property
    def targets(self) -> int:
        """Number of tokens that have a loss."""
        return len(self.target_places)


@dataclass(frozen=True)
class _Exchange:
    """The context since the agent's previous turn, and the agent's turn."""

    context: list[int]
    target: list[int]
    weights: list[float]
    calls: list[tuple[int, int]]
    """Spans of the tool calls in ``target``."""

    def __len__(self) -> int:
        return len(self.context) + len(self.target)


Encode = Callable[[Example], list[Window]]
"""Cuts an example into windows: ``encode_example`` with a tokenizer and a length."""


class ExampleEncoder:
    """Encodes examples one by one, and leaves out those that cannot be encoded. One bad example costs that example.

    Attributes:
        left_out: Number of examples that were left out, by reason. The reasons name no example.
    """

    def __init__(self, encode: Encode, on_example: Callable[[], object] = lambda: None) -> None:
        """Make an encoder.

        Args:
            encode: Encodes one example.
            on_example: Called after each example, which may take milliseconds and be one of many thousands.
        """
        self._encode = encode
        self._on_example = on_example
        self.left_out: Counter[str] = Counter()

    def encode(self, example: Example) -> list[Window]:
        """Encode one example.

        Args:
            example: The example.

        Returns:
            Its windows; none if it cannot be encoded, which is counted.
        """
        try:
            return self._encode(example)
        except MemoryError:  # not a property of the example
            raise
        except Unrenderable as error:
            self.left_out[error.reason] += 1
        except Exception as error:  # templates are programs: any type may come out of one
            self.left_out[f"unexpected {type(error).__name__}"] += 1
        finally:
            self._on_example()
        return []

    def encode_all(self, examples: Iterable[Example], what: str) -> list[Window]:
        """Encode all ``examples``.

        Args:
            examples: The examples.
            what: What they are for the error message, such as ``"training examples"``.

        Returns:
            The windows of all examples that can be encoded.

        Raises:
            InvalidInput: If none of them can be encoded.
        """
        windows = [window for example in examples for window in self.encode(example)]
        self.require(windows, what)
        return windows

    def require(self, windows: Sequence[object], what: str) -> None:
        """Check that something was encoded.

        Args:
            windows: What was encoded.
            what: What the examples are for the error message, such as ``"training examples"``.

        Raises:
            InvalidInput: If ``windows`` is empty. The message has the most frequent reason.
        """
        if not windows:
            reason, _ = max(self.left_out.items(), key=lambda item: item[1], default=("there are none", 0))
            raise InvalidInput(f"none of the {what} can be encoded: {reason}")


class Unrenderable(InvalidInput):
    """An example that the base model's chat template does not render.

    Attributes:
        reason: The message without the example, the same for all examples with this problem.
    """

    def __init__(self, reason: str, example: Example) -> None:
        """Make the error.

        Args:
            reason: Why the example cannot be rendered.
            example: The example.
        """
        super().__init__(f"{reason} (example {example.id})")
        self.reason = reason


def encode_example(example: Example, tokenizer: PreTrainedTokenizerBase, max_seq_length: int) -> list[Window]:
    """Encode one example as windows.

    A long example becomes several windows. Each starts with the system prompt, cropped to a quarter of the window, and
    continues with consecutive turns. Every turn of the agent that has a weight is a target exactly once. An exchange
    that is longer than a window is cropped: its context from the left, and a turn that takes more than half from the
    right.

    Args:
        example: The example, with at least one turn that has a weight.
        tokenizer: The base model's tokenizer, with its chat template.
        max_seq_length: Maximum tokens of a window.

    Returns:
        At least one window, each of at most ``max_seq_length`` tokens.

    Raises:
        Unrenderable: If there is no chat template, if it refuses the example, if it does not render tool calls, or if
            it changes earlier turns when a turn is added.
    """
    head, exchanges = _exchanges(example, tokenizer)
    if not exchanges:
        raise Unrenderable("there is no turn of the agent to learn", example)
    if len(head) + sum(map(len, exchanges)) > max_seq_length:
        head = head[: max_seq_length // 4]
        exchanges = [_crop(exchange, max_seq_length - len(head)) for exchange in exchanges]
    return list(_windows(head, exchanges, max_seq_length))


def _windows(head: list[int], exchanges: Sequence[_Exchange], max_seq_length: int) -> Iterator[Window]:
    packed: list[_Exchange] = []
    for exchange in exchanges:
        if packed and len(head) + sum(map(len, packed)) + len(exchange) > max_seq_length:
            yield _window(head, packed)
            packed = []
        packed.append(exchange)
    yield _window(head, packed)


def _exchanges(example: Example, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[_Exchange]]:
    if not tokenizer.chat_template:
        raise Unrenderable(
            f"base model {tokenizer.name_or_path!r} has no chat template to render examples with: choose an "
            "instruction-tuned base, or put a chat_template.jinja into its folder",
            example,
        )
    messages = [_message(turn) for turn in example.turns]
    tools = None if example.tools is None else orjson.loads(example.tools)

    def render(upto: list[dict[str, Any]], prompt: bool = False) -> str:
        try:
            return str(tokenizer.apply_chat_template(upto, tools=tools, tokenize=False, add_generation_prompt=prompt))
        except TemplateError as error:
            raise Unrenderable(
                f"the chat template of base model {tokenizer.name_or_path!r} refuses it: {error}", example
            ) from error

    def extend(before: str, after: str) -> str:
        if not after.startswith(before):
            raise Unrenderable(
                f"the chat template of base model {tokenizer.name_or_path!r} is not prefix-stable: adding a turn "
                "changes what was rendered before it; use a base whose template only appends",
                example,
            )
        return after[len(before) :]

    done = render(messages[:1]) if example.turns[0].role == "system" else ""
    head = _tokens(tokenizer, done)
    exchanges = []
    for k, turn in enumerate(example.turns):
        if turn.weight == 0:
            continue
        prompt = render(messages[:k], prompt=True)
        partly = [turn.model_copy(update={"tool_calls": turn.tool_calls[:i]}) for i in range(len(turn.tool_calls) + 1)]
        targets = [extend(prompt, render([*messages[:k], _message(part)])) for part in partly]
        spans = call_spans([_strip_end_of_turn(target, tokenizer) for target in targets])
        if any(start == end for start, end in spans):
            raise Unrenderable(
                f"the chat template of base model {tokenizer.name_or_path!r} does not render the agent's tool calls: "
                "give the base a template that does",
                example,
            )
        exchanges.append(_exchange(tokenizer, extend(done, prompt), targets[-1], turn.weight, spans))
        done = prompt + targets[-1]
    return head, exchanges


def _exchange(
    tokenizer: PreTrainedTokenizerBase, context: str, target: str, weight: float, spans: list[tuple[int, int]]
) -> _Exchange:
    encoded = tokenizer(target, add_special_tokens=False, return_offsets_mapping=True)
    tokens, offsets = encoded["input_ids"], encoded["offset_mapping"]
    calls = []
    for start, end in spans:
        inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > start]
        calls.append((inside[0], inside[-1] + 1))
    # Generation ends with the end-of-turn token. The model never writes what the template puts after it.
    written = len(_strip_end_of_turn(target, tokenizer)) + len(tokenizer.eos_token)
    weights = [weight if start < written else 0.0 for start, _ in offsets]
    return _Exchange(_tokens(tokenizer, context), tokens, weights, calls)


def _strip_end_of_turn(target: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a rendered turn without its end-of-turn token and what follows."""
    end = target.rfind(tokenizer.eos_token)
    return target if end < 0 else target[:end]


def call_spans(targets: Sequence[str]) -> list[tuple[int, int]]:
    """Find each tool call in a rendered turn, without parsing it: a call is what it adds to the rendering.

    Args:
        targets: ``targets[i]`` is the turn rendered with its first i calls.

    Returns:
        The half-open character span of each call in ``targets[-1]``.
    """
    spans = []
    for before, after in pairwise(targets):
        start = _common_prefix_length(before, after)
        spans.append((start, len(after) - _common_prefix_length(before[start:][::-1], after[start:][::-1])))
    return spans


def _common_prefix_length(a: str, b: str) -> int:
    """Return the length of the common prefix."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _crop(exchange: _Exchange, budget: int) -> _Exchange:
    if len(exchange) <= budget:
        return exchange
    kept = budget - min(len(exchange.context), budget // 2)
    target = exchange.target[:kept]
    return replace(
        exchange,
        context=exchange.context[len(exchange.context) - (budget - len(target)) :],
        target=target,
        weights=exchange.weights[:kept],
        calls=[(start, end) for start, end in exchange.calls if end <= kept],
    )


def _window(head: list[int], exchanges: list[_Exchange]) -> Window:
    tokens, weights = list(head), [0.0] * len(head)
    calls: list[tuple[int, int]] = []
    for exchange in exchanges:
        start = len(tokens) + len(exchange.context)
        tokens += exchange.context + exchange.target
        weights += [0.0] * len(exchange.context) + exchange.weights
        calls += [(start + a, start + b) for a, b in exchange.calls]
    assert any(weights), "a window without a target: the loss mask would be empty"
    return Window(tuple(tokens), tuple(weights), tuple(calls))


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


def _message(turn: Turn) -> dict[str, Any]:
    """Return ``turn`` as vLLM passes a request's messages to the template: with arguments as objects, not as text."""
    message: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.tool_calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": _arguments(call.arguments)},
            }
            for call in turn.tool_calls
        ]
    if turn.call_id is not None:
        message["tool_call_id"] = turn.call_id
    return message


def _arguments(text: str) -> Any:
    """Return the JSON object in ``text``, or ``text`` itself if it is not a JSON object."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    return value if isinstance(value, dict) else text
