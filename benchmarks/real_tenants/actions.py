"""Evaluate next actions: for each tool call of a held-out episode, what the model would say in its place.

``run.py`` calls it. Each action is predicted greedily given the true history, as in the gate. Four things are told
apart, because they fail for different reasons:

- ``tool``: from the beginning of the call, through the name of the tool, each token is the most likely one. The model
  decides to call, in the right form, the right tool.
- ``call``: so is each token of the arguments. They are compared as they were recorded, so an argument in free words
  (``summary``) is right only word for word.
- ``named_tool`` and ``named_call``: the same given the opening of the call, as an engine gives it that is told that a
  call is required. A model that does not know the form, or would rather talk, is not blamed for it here.

A name counts with the character after it, so that ``get`` is not right where ``get_order`` was called. Space between
the text of a turn and its call counts neither way, since the engine reads a call after any.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from pydantic import BaseModel, ConfigDict

from looper.jobs.consolidation.adapters.peft_layers import ActiveAdapter
from looper.jobs.consolidation.data.encode import ExampleEncoder
from looper.jobs.consolidation.data.window import Span, Window
from looper.jobs.consolidation.evaluation.teacher_forcing import evaluate_windows
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.platform.domain.example import Example

EVALUATED_TOKENS_PER_PASS = 4096
"""Tokens of a forward pass: enough windows for the policy before all of them to be computed once."""

Decode = Callable[[Sequence[int]], str]
"""Returns the text of tokens."""


class ActionResult(BaseModel):
    """What one arm says in the place of one recorded tool call."""

    model_config = ConfigDict(frozen=True)

    task: str
    """Task of the episode, with the tenant's name before it."""
    number: int
    """Number of the action among the evaluated ones of its tenant and seed."""
    name: str
    """The recorded tool."""
    tool: bool
    """Whether the tool is right."""
    call: bool
    """Whether tool and arguments are right."""
    named_tool: bool
    """Whether the tool is right, given the opening of the call."""
    named_call: bool
    """Whether tool and arguments are right, given the opening of the call."""
    prompt_tokens: int
    """Tokens before the call."""


class EncodedActions:
    """The held-out examples of a tenant as one arm is asked them, encoded."""

    def __init__(self, examples: Sequence[Example], encoder: ExampleEncoder, decode: Decode) -> None:
        """Encode.

        Args:
            examples: The examples, with a weight on turns with tool calls alone.
            encoder: Encoder with the length of the longest prompt.
            decode: Returns the text of tokens.
        """
        self.windows: list[Window] = []
        self._actions: list[tuple[str, int, str]] = []
        self.left_out = 0
        number = 0
        for example in examples:
            names = [call.name for turn in example.turns if turn.weight > 0 for call in turn.tool_calls]
            windows = encoder.encode(example)
            calls = [(window, span) for window in windows for span in window.calls]
            if len(calls) != len(names):  # a turn that the base cannot be taught: which one is not known
                self.left_out += len(names)
                number += len(names)
                continue
            named = iter(names)
            for window in windows:
                of_window = [(span, next(named)) for span in window.calls]
                spans = [part for span, name in of_window for part in _split_call(window, span, name, decode)]
                self.windows.append(replace(window, calls=tuple(spans)))
                self._actions += [(example.task_id, number + i, name) for i, (_, name) in enumerate(of_window)]
                number += len(of_window)

    def __len__(self) -> int:
        return len(self._actions)

    @property
    def tokens(self) -> int:
        """Tokens of all windows."""
        return sum(map(len, self.windows))

    def evaluate(self, base: SharedBase, lora: ActiveAdapter | None) -> list[ActionResult]:
        """Evaluate an adapter.

        Args:
            base: The base model.
            lora: The adapter; None for the base model alone.

        Returns:
            One result for each action, in the order of the examples.
        """
        before, base.max_tokens_per_pass = base.max_tokens_per_pass, EVALUATED_TOKENS_PER_PASS
        try:
            evaluations = evaluate_windows(base, lora, self.windows)
        finally:
            base.max_tokens_per_pass = before
        actions = iter(self._actions)
        results = []
        for window, evaluation in zip(self.windows, evaluations, strict=True):
            for first in range(0, len(window.calls), _PARTS):
                task, number, name = next(actions)
                tool, call, named_tool, named_call = evaluation.right[first : first + _PARTS]
                results.append(
                    ActionResult(
                        task=task,
                        number=number,
                        name=name,
                        tool=tool,
                        call=call,
                        named_tool=named_tool,
                        named_call=named_call,
                        prompt_tokens=window.calls[first][0],
                    )
                )
        return results


_PARTS = 4
"""Spans that ``_split_call`` makes of a call."""


def _split_call(window: Window, span: Span, name: str, decode: Decode) -> tuple[Span, Span, Span, Span]:
    """Return the spans of ``tool``, ``call``, ``named_tool`` and ``named_call``, in tokens of the window."""
    begin, end = span
    tokens = window.tokens[begin:end].tolist()
    text = decode(tokens)
    ends = [len(decode(tokens[: count + 1])) for count in range(len(tokens))]
    start = begin + next(i for i, text_end in enumerate(ends) if text_end > len(text) - len(text.lstrip()))
    at = text.find(name)
    # A template that writes the name in another way leaves the whole call as the name.
    first = 0 if at < 0 else next(i for i, text_end in enumerate(ends) if text_end > at)
    last = len(tokens) if at < 0 else next((i for i, e in enumerate(ends) if e > at + len(name)), len(tokens) - 1) + 1
    return (start, begin + last), (start, end), (begin + first, begin + last), (begin + first, end)
