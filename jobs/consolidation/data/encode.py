"""From examples to token windows with a loss mask, through the base model's own chat template.

The mask needs nothing from the template (no ``{% generation %}``): the prompt before each of the agent's turns is
rendered as it is for generation, then with the turn; what the second adds is the turn. Each piece is tokenised on its
own, so that the agent's first token is predicted from exactly the tokens that generation starts from.
"""

from collections.abc import Sequence
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
    """One training sequence of T tokens. ``weights[i]`` multiplies the loss of predicting ``tokens[i]``.

    ``calls`` are the half-open token spans of the agent's tool calls, for judging next actions.
    """

    tokens: tuple[int, ...]
    weights: tuple[float, ...]
    calls: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def target_places(self) -> list[int]:
        """Which of its tokens bear loss. The first never does: nothing comes before it."""
        return [place for place, weight in enumerate(self.weights) if weight > 0 and place > 0]

    @property
    def targets(self) -> int:
        """How many of its tokens bear loss."""
        return len(self.target_places)


@dataclass(frozen=True)
class _Exchange:
    """What happened since the agent's last turn, and the turn it answered with; ``calls`` are spans in ``target``."""

    context: list[int]
    target: list[int]
    weights: list[float]
    calls: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.context) + len(self.target)


def encode(example: Example, tokenizer: PreTrainedTokenizerBase, max_seq_length: int) -> list[Window]:
    """The windows of ``example``, each of at most ``max_seq_length`` tokens.

    A longer example becomes several windows. Each begins with the system prompt, cropped to a quarter of the window,
    and goes on with turns in a row; every turn of the agent with a weight is a target exactly once. An exchange longer
    than a window is cropped: its context from the left, and the turn, if it takes more than half, from the right.
    Raises InvalidInput if there is no chat template, or one that rewrites earlier turns when later ones are added.
    """
    head, exchanges = _exchanges(example, tokenizer)
    assert exchanges, f"example {example.id} has no turn to learn"
    if len(head) + sum(map(len, exchanges)) > max_seq_length:
        head = head[: max_seq_length // 4]
        exchanges = [_crop(exchange, max_seq_length - len(head)) for exchange in exchanges]
    windows: list[Window] = []
    packed: list[_Exchange] = []
    for exchange in exchanges:
        if packed and len(head) + sum(map(len, packed)) + len(exchange) > max_seq_length:
            windows.append(_window(head, packed))
            packed = []
        packed.append(exchange)
    return [*windows, _window(head, packed)]


def _exchanges(example: Example, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[_Exchange]]:
    if not tokenizer.chat_template:
        raise InvalidInput(
            f"base model {tokenizer.name_or_path!r} has no chat template to render examples with: choose an "
            "instruction-tuned base, or put a chat_template.jinja into its folder"
        )
    messages = [_message(turn) for turn in example.turns]
    tools = None if example.tools is None else orjson.loads(example.tools)

    def render(upto: list[dict[str, Any]], prompt: bool = False) -> str:
        try:
            return str(tokenizer.apply_chat_template(upto, tools=tools, tokenize=False, add_generation_prompt=prompt))
        except TemplateError as error:
            raise InvalidInput(
                f"the chat template of base model {tokenizer.name_or_path!r} refuses example {example.id}: {error}"
            ) from error

    def extend(before: str, after: str) -> str:
        if not after.startswith(before):
            raise InvalidInput(
                f"the chat template of base model {tokenizer.name_or_path!r} is not prefix-stable: adding a turn "
                f"changes what was rendered before it (example {example.id}); use a base whose template only appends"
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
        spans = call_spans([_before_end(target, tokenizer) for target in targets])
        if any(start == end for start, end in spans):
            raise InvalidInput(
                f"the chat template of base model {tokenizer.name_or_path!r} does not render the agent's tool calls "
                f"(example {example.id}): give the base a template that does"
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
    # Generation ends with the end-of-turn token: what the template puts after it is never the model's to write.
    written = len(_before_end(target, tokenizer)) + len(tokenizer.eos_token)
    weights = [weight if start < written else 0.0 for start, _ in offsets]
    return _Exchange(_tokens(tokenizer, context), tokens, weights, calls)


def _before_end(target: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """A rendered turn without its end-of-turn token and what follows."""
    end = target.rfind(tokenizer.eos_token)
    return target if end < 0 else target[:end]


def call_spans(targets: Sequence[str]) -> list[tuple[int, int]]:
    """Where each tool call stands in ``targets[-1]``, ``targets[i]`` being the turn rendered with its first i calls.

    A call is what it adds to the turn before: whatever the template's form, it takes no parsing.
    """
    spans = []
    for before, after in pairwise(targets):
        start = _common(before, after)
        spans.append((start, len(after) - _common(before[start:][::-1], after[start:][::-1])))
    return spans


def _common(a: str, b: str) -> int:
    """Length of the common prefix."""
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
    """``turn`` as vLLM hands a request's messages to the template: with arguments as objects, not as text."""
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
    """The object that ``text`` holds, or ``text`` itself where a source kept something that is no JSON object."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    return value if isinstance(value, dict) else text
