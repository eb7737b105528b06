"""What a tenant does at each step, as functions of its recipe alone: never of who trains beside it, nor of the clock.

So a resumed run goes on with the same batches and learning rates, and a cohort's member trains as it would alone.
"""

import math
import random

from looper.platform.domain.consolidation import Recipe


def total_steps(examples: int, recipe: Recipe) -> int:
    """Optimiser steps of a whole training on so many examples (windows)."""
    steps = recipe.epochs * math.ceil(examples / recipe.batch_size)
    return steps if recipe.max_steps is None else min(steps, recipe.max_steps)


def batch_at(step: int, examples: int, recipe: Recipe) -> list[int]:
    """The indices of the examples of optimiser step ``step`` (from 0) of a training on so many.

    Every epoch takes each example once, in an order of its own. Lengths do not matter: packed windows have no padding,
    and a batch of like lengths would be a batch of like tasks.
    """
    epoch, place = divmod(step, math.ceil(examples / recipe.batch_size))
    order = random.Random(f"{recipe.seed}:{epoch}").sample(range(examples), examples)
    return order[place * recipe.batch_size :][: recipe.batch_size]


def pairs_at(step: int, examples: int, pairs: int, recipe: Recipe) -> list[int]:
    """The indices of the pairs of optimiser step ``step`` (from 0) of a training on so many examples and pairs.

    Every epoch takes each pair once, in an order of its own, spread evenly over its steps: some have none if pairs are
    few.
    """
    steps = math.ceil(examples / recipe.batch_size)
    epoch, place = divmod(step, steps)
    order = random.Random(f"{recipe.seed}:{epoch}:pairs").sample(range(pairs), pairs)
    return order[place * pairs // steps : (place + 1) * pairs // steps]


def learning_rate(step: int, steps: int, recipe: Recipe) -> float:
    """Of optimiser step ``step`` (from 0): a linear rise over the warm-up, then half a cosine towards 0."""
    warmup = math.ceil(recipe.warmup_ratio * steps)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))
