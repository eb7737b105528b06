"""A window: one training sequence of tokens with the weights of its loss. Synthesis makes it, and trainers read it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

Span = tuple[int, int]
"""A half-open span of tokens."""


@dataclass(frozen=True, eq=False)
class Window:
    """One training sequence of T tokens."""

    tokens: NDArray[np.int32]
    """Token ids, ``[T]``."""
    weights: NDArray[np.float32]
    """``weights[i]`` multiplies the loss of predicting ``tokens[i]``; 0 for context. ``[T]``."""
    calls: tuple[Span, ...]
    """Spans of the agent's tool calls, for evaluating next actions."""

    @classmethod
    def of(cls, tokens: Sequence[int], weights: Sequence[float], calls: Sequence[Span] = ()) -> Self:
        """Make a window of sequences of numbers.

        Args:
            tokens: Token ids, ``[T]``.
            weights: Weights, ``[T]``.
            calls: Spans of the agent's tool calls.

        Returns:
            The window.
        """
        return cls(np.asarray(tokens, np.int32), np.asarray(weights, np.float32), tuple(calls))

    def __len__(self) -> int:
        return len(self.tokens)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Window):
            return NotImplemented
        same = np.array_equal(self.tokens, other.tokens) and np.array_equal(self.weights, other.weights)
        return same and self.calls == other.calls

    def __hash__(self) -> int:
        return hash(self.tokens.tobytes())

    @cached_property
    def target_places(self) -> NDArray[np.intp]:
        """Indices of the tokens that have a loss. The first token never has one, because nothing comes before it."""
        return np.flatnonzero(self.weights[1:] > 0) + 1

    @property
    def targets(self) -> int:
        """Number of tokens that have a loss."""
        return len(self.target_places)

    @cached_property
    def total_weight(self) -> float:
        """Sum of the weights."""
        return float(self.weights.sum(dtype=np.float64))
