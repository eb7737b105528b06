"""What a tenant does at each step, as functions of its recipe alone: never of who trains beside it, nor of the clock.

So a resumed run goes on with the same batches and learning rates, and a cohort's member trains as it would alone.
"""

import math
import random
from collections.abc import Sequence

from looper.platform.domain.consolidation import Recipe

BUCKET = 8
"""Batches sorted by length together: enough to keep padding small, few enough that every epoch is shuffled."""


def total_steps(examples: int, recipe: Recipe) -> int:
    """Optimiser steps of a whole training on so many examples (windows)."""
    steps = recipe.epochs * math.ceil(examples / recipe.batch_size)
    return steps if recipe.max_steps is None else min(steps, recipe.max_steps)


def batch_at(step: int, lengths: Sequence[int], recipe: Recipe) -> list[int]:
    """The indices of the examples of optimiser step ``step`` (from 0), given the length of each in tokens.

    Every epoch takes each example once, in an order of its own. Neighbours in length share a batch.
    """
    epoch, place = divmod(step, math.ceil(len(lengths) / recipe.batch_size))
    rng = random.Random(f"{recipe.seed}:{epoch}")
    order = rng.sample(range(len(lengths)), len(lengths))
    size = recipe.batch_size
    batches: list[list[int]] = []
    for start in range(0, len(order), size * BUCKET):
        bucket = sorted(order[start : start + size * BUCKET], key=lambda i: (lengths[i], i))
        batches += [bucket[i : i + size] for i in range(0, len(bucket), size)]
    rng.shuffle(batches)
    return batches[place]


def learning_rate(step: int, steps: int, recipe: Recipe) -> float:
    """Of optimiser step ``step`` (from 0): a linear rise over the warm-up, then half a cosine towards 0."""
    warmup = math.ceil(recipe.warmup * steps)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))
