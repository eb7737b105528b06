"""Held-out loss and next-action accuracy of an adapter, teacher-forced: each turn is judged given the true history."""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from looper.jobs.consolidation.encode import Window
from looper.jobs.consolidation.lora import Lora
from looper.jobs.consolidation.pack import divide
from looper.jobs.consolidation.shared_base import SharedBase
from looper.platform.domain.consolidation import Scores
from looper.platform.domain.errors import InvalidInput

MOST_TOKENS = 6_144
"""Held-out tokens that are judged at most: several dozen actions, and on two cores a quarter of a minute."""


@dataclass(frozen=True)
class Judged:
    """What an adapter makes of one window."""

    loss: float
    """Sum over the targets of weight times cross-entropy, in nats."""
    right: tuple[bool, ...]
    """Of each tool call, whether all its tokens are the argmax."""
    exact: bool
    """Whether all targets are."""


def sample(windows: Sequence[Window]) -> list[Window]:
    """All of ``windows`` up to ``MOST_TOKENS`` tokens, else as many, picked at random but always the same."""
    if sum(map(len, windows)) <= MOST_TOKENS:
        return list(windows)
    picked: list[Window] = []
    tokens = 0
    for window in random.Random(0).sample(windows, len(windows)):
        tokens += len(window)
        if picked and tokens > MOST_TOKENS:
            break
        picked.append(window)
    return picked


@torch.no_grad()
def judge_each(base: SharedBase, lora: Lora | None, windows: Sequence[Window]) -> list[Judged]:
    """Each of ``windows`` under the adapter, or under the bare base."""
    found: dict[int, Judged] = {}
    apart = [replace(window) for window in windows]  # equal windows may be one object, and each is judged
    numbers = {id(window): i for i, window in enumerate(apart)}
    for part in divide([apart], base.tokens_at_once):
        (batch,) = part.values()
        packed = base.pack([batch])
        logits = base.logits(packed, [] if lora is None else [lora])
        losses = cross_entropy(logits, packed.targets, reduction="none") * packed.weights
        hits = logits.argmax(-1) == packed.targets
        sizes = list(packed.target_sizes)
        for window, loss, hit in zip(batch, torch.split(losses, sizes), torch.split(hits, sizes), strict=True):
            found[numbers[id(window)]] = Judged(float(loss.sum()), tuple(_calls_hit(window, hit)), bool(hit.all()))
    return [found[i] for i in range(len(windows))]


def _calls_hit(window: Window, hit: Tensor) -> Iterator[bool]:
    at = {token: i for i, token in enumerate(window.target_places)}
    for start, end in window.calls:
        yield bool(hit[[at[token] for token in range(start, end)]].all())


def score(base: SharedBase, lora: Lora | None, windows: Sequence[Window]) -> Scores:
    """The scores of an adapter, or of the bare base, on ``windows``.

    Raises InvalidInput if the loss is no number: such an adapter has been trained to pieces.
    """
    judged = judge_each(base, lora, windows)
    loss = sum(each.loss for each in judged) / sum(sum(window.weights) for window in windows)
    if not math.isfinite(loss):
        raise InvalidInput(f"the held-out loss of the candidate is {loss}: lower the recipe's learning_rate")
    right = [call for each in judged for call in each.right]
    return Scores(
        accuracy=sum(right) / len(right) if right else None,
        loss=loss,
        actions=len(right),
        tokens=sum(window.targets for window in windows),
    )
