"""Evaluate an adapter with teacher forcing: each of the agent's turns is predicted given the true history.

``candidate_scores.py`` turns the results into scores; the benchmarks use them as they are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from looper.jobs.consolidation.adapters.peft_layers import ActiveAdapter
from looper.jobs.consolidation.data.packing import split_into_passes
from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.model.shared_base import SharedBase


@dataclass(frozen=True, eq=False)
class WindowEvaluation:
    """What an adapter predicts for one window."""

    loss: float
    """Sum of weight times cross-entropy over the targets, in nats."""
    said: tuple[tuple[int, ...], ...]
    """For each tool call, the predicted tokens up to the first one that differs from the true call, including it."""
    right: tuple[bool, ...]
    """For each tool call, whether all its tokens are the argmax."""
    exact: bool
    """Whether all targets are the argmax."""
    opening: Tensor
    """Logits of the first target, ``[vocabulary]``: the first token of the agent's first answer."""


@torch.no_grad()
def evaluate_windows(base: SharedBase, lora: ActiveAdapter | None, windows: Sequence[Window]) -> list[WindowEvaluation]:
    """Evaluate an adapter on each window.

    Args:
        base: The shared base model.
        lora: The adapter; None for the bare base.
        windows: The windows.

    Returns:
        One result for each window, in the same order.
    """
    found: dict[int, WindowEvaluation] = {}
    apart = [replace(window) for window in windows]  # equal windows may be one object, but each gets a result
    numbers = {id(window): i for i, window in enumerate(apart)}
    for part in split_into_passes([apart], base.max_tokens_per_pass):
        (batch,) = part.values()
        packed = base.pack([batch])
        logits = base.logits(packed, [] if lora is None else [lora])
        losses = cross_entropy(logits, packed.targets, reduction="none") * packed.weights
        likeliest = logits.argmax(-1)
        sizes = list(packed.target_sizes)
        pieces = (torch.split(each, sizes) for each in (losses, likeliest, packed.targets, logits))
        for window, loss, predicted, target, scores in zip(batch, *pieces, strict=True):
            said = tuple(_predicted_call_prefixes(window, predicted.tolist()))
            true = (tuple(window.tokens[start:end].tolist()) for start, end in window.calls)
            right = tuple(a == b for a, b in zip(said, true, strict=True))
            exact = torch.equal(predicted, target)
            # A copy: a view would keep the logits of all targets.
            found[numbers[id(window)]] = WindowEvaluation(float(loss.sum()), said, right, exact, scores[0].clone())
    return [found[i] for i in range(len(windows))]


def _predicted_call_prefixes(window: Window, predicted: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield the predicted prefix of each call. ``predicted`` holds the argmax at each target place."""
    likeliest = dict(zip(window.target_places.tolist(), predicted, strict=True))
    tokens = window.tokens.tolist()
    for start, end in window.calls:
        departs = next((at for at in range(start, end) if likeliest[at] != tokens[at]), None)
        yield tuple(tokens[start:end]) if departs is None else (*tokens[start:departs], likeliest[departs])
