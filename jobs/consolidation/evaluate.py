"""Held-out loss and next-action accuracy of an adapter, teacher-forced: each turn is judged given the true history."""

import math
import random
from collections.abc import Iterator, Sequence

import torch
from torch.nn.functional import cross_entropy

from looper.jobs.consolidation.encode import Window
from looper.jobs.consolidation.shared_base import Adapter
from looper.jobs.consolidation.tenant import collate
from looper.platform.domain.consolidation import Scores
from looper.platform.domain.errors import InvalidInput

MOST_TOKENS = 6_144
"""Held-out tokens that are judged at most: several dozen actions, and on two cores a quarter of a minute."""
BATCH_TOKENS = 4_096


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
def score(adapter: Adapter, windows: Sequence[Window]) -> Scores:
    """The scores of ``adapter`` on ``windows``. A tool call counts when each of its tokens is the most likely one.

    Raises InvalidInput if the loss is no number: such an adapter has been trained to pieces.
    """
    device = next(adapter.parameters()).device
    loss = weight = 0.0
    right = actions = tokens = 0
    for batch in _batches(windows):
        ids, weights = collate(batch, device)
        targets = weights > 0
        logits = adapter(ids, targets)
        losses = cross_entropy(logits, ids[targets], reduction="none")
        loss += float((losses * weights[targets]).sum())
        weight += float(weights.sum())
        tokens += int(targets.sum())
        hit = torch.zeros_like(targets)
        hit[targets] = logits.argmax(-1) == ids[targets]
        for row, window in enumerate(batch):
            right += sum(bool(hit[row, start:end].all()) for start, end in window.calls)
            actions += len(window.calls)
    if not math.isfinite(loss):
        raise InvalidInput(f"the held-out loss of adapter {adapter.name} is {loss}: lower the recipe's learning_rate")
    return Scores(accuracy=right / actions if actions else None, loss=loss / weight, actions=actions, tokens=tokens)


def _batches(windows: Sequence[Window]) -> Iterator[list[Window]]:
    """By length, so that little is padded."""
    batch: list[Window] = []
    for window in sorted(windows, key=len):
        if batch and len(window) * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch
