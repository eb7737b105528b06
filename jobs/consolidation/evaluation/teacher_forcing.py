"""What an adapter makes of windows, teacher-forced: each turn is judged given the true history."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from looper.jobs.consolidation.adapters.peft_layers import Acting
from looper.jobs.consolidation.data.encode import Window
from looper.jobs.consolidation.data.packing import divide
from looper.jobs.consolidation.model.shared_base import SharedBase


@dataclass(frozen=True, eq=False)
class Judged:
    """What an adapter makes of one window."""

    loss: float
    """Sum over the targets of weight times cross-entropy, in nats."""
    said: tuple[tuple[int, ...], ...]
    """Of each tool call, what greedy generation begins with: up to and including the first token that departs from the
    true call."""
    right: tuple[bool, ...]
    """Of each tool call, whether all its tokens are the argmax."""
    exact: bool
    """Whether all targets are."""
    opening: Tensor
    """``[vocabulary]``: the logits of the first target, with which the agent's first answer begins."""


@torch.no_grad()
def judge_each(base: SharedBase, lora: Acting | None, windows: Sequence[Window]) -> list[Judged]:
    """Each of ``windows`` under the adapter, or under the bare base."""
    found: dict[int, Judged] = {}
    apart = [replace(window) for window in windows]  # equal windows may be one object, and each is judged
    numbers = {id(window): i for i, window in enumerate(apart)}
    for part in divide([apart], base.tokens_at_once):
        (batch,) = part.values()
        packed = base.pack([batch])
        logits = base.logits(packed, [] if lora is None else [lora])
        losses = cross_entropy(logits, packed.targets, reduction="none") * packed.weights
        likeliest = logits.argmax(-1)
        sizes = list(packed.target_sizes)
        pieces = (torch.split(each, sizes) for each in (losses, likeliest, packed.targets, logits))
        for window, loss, predicted, target, scores in zip(batch, *pieces, strict=True):
            said = tuple(_beginnings(window, predicted.tolist()))
            true = (window.tokens[start:end] for start, end in window.calls)
            right = tuple(a == b for a, b in zip(said, true, strict=True))
            exact = torch.equal(predicted, target)
            # A copy: a view would keep the logits of all targets.
            found[numbers[id(window)]] = Judged(float(loss.sum()), said, right, exact, scores[0].clone())
    return [found[i] for i in range(len(windows))]


def _beginnings(window: Window, predicted: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """What would be said of each call, ``predicted`` being the likeliest token at each of the target places."""
    likeliest = dict(zip(window.target_places, predicted, strict=True))
    for start, end in window.calls:
        departs = next((at for at in range(start, end) if likeliest[at] != window.tokens[at]), None)
        yield window.tokens[start:end] if departs is None else (*window.tokens[start:departs], likeliest[departs])
