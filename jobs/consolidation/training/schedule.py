"""Batches and learning rates of each optimizer step, as functions of the recipe alone.

They depend neither on other members of the trainer nor on the clock. So a resumed session continues with the same
batches and learning rates, and a member trains in a cohort as it would alone. ``TrainingSession`` calls them.
"""

import math
import random
from collections.abc import Sequence
from typing import TypeVar

from looper.platform.domain.recipe import Recipe

T = TypeVar("T")


def total_steps(examples: int, recipe: Recipe) -> int:
    """Return the number of optimizer steps of a whole session.

    Args:
        examples: Number of training examples (windows).
        recipe: Gives epochs, batch size and the maximum number of steps.

    Returns:
        The number of steps.
    """
    steps = recipe.epochs * math.ceil(examples / recipe.batch_size)
    return steps if recipe.max_steps is None else min(steps, recipe.max_steps)


def epoch_count(examples: int, recipe: Recipe) -> int:
    """Return how many passes over the examples a session takes, a last incomplete one included.

    Args:
        examples: Number of training examples.
        recipe: Gives epochs, batch size and the maximum number of steps.

    Returns:
        The number of passes, at least 1.
    """
    if not examples:
        return 1
    return math.ceil(total_steps(examples, recipe) / math.ceil(examples / recipe.batch_size))


def batch_at(step: int, examples: int, recipe: Recipe) -> list[int]:
    """Return the examples of one optimizer step.

    Each epoch takes every example once, in its own random order. Lengths play no role: packed windows have no padding,
    and a batch of similar lengths would be a batch of similar tasks.

    Args:
        step: Number of the step, from 0.
        examples: Number of training examples.
        recipe: Gives batch size and seed.

    Returns:
        Indices of at most ``batch_size`` examples.
    """
    epoch, step_in_epoch = divmod(step, math.ceil(examples / recipe.batch_size))
    order = random.Random(f"{recipe.seed}:{epoch}").sample(range(examples), examples)
    return order[step_in_epoch * recipe.batch_size :][: recipe.batch_size]


def batch_with_once_at(step: int, repeated: int, once: int, epochs: int, recipe: Recipe) -> list[int]:
    """Return the examples of one optimizer step where only some of the examples are repeated in each epoch.

    Each epoch takes every repeated example, and its own part of the others. So those can be as many as all epochs have
    room for, and each is trained on once: replayed examples, and examples that are rendered in another context. If
    their number is not a multiple of the epochs, the first few come again in the last epoch.

    Args:
        step: Number of the step, from 0.
        repeated: Number of examples that each epoch takes.
        once: Number of the other examples.
        epochs: Number of passes over the repeated examples.
        recipe: Gives batch size and seed.

    Returns:
        Indices of at most ``batch_size`` examples. The examples that are trained on once count from ``repeated``.
    """
    per_epoch = once_per_epoch(once, epochs)
    epoch = step // math.ceil((repeated + per_epoch) / recipe.batch_size)
    return [
        i if i < repeated else repeated + (epoch * per_epoch + i - repeated) % once
        for i in batch_at(step, repeated + per_epoch, recipe)
    ]


def once_per_epoch(once: int, epochs: int) -> int:
    """Return how many of the examples that are trained on once each epoch takes.

    Args:
        once: Number of those examples.
        epochs: Number of epochs.

    Returns:
        The number.
    """
    return math.ceil(once / epochs)


def spread_evenly(*lists: Sequence[T]) -> list[T]:
    """Return the elements of several lists in one, so that each part of it has some of each list.

    Args:
        lists: The lists, of any lengths.

    Returns:
        All elements. Those of one list stay in their order.
    """
    places = [((number + 0.5) / len(each), element) for each in lists for number, element in enumerate(each)]
    return [element for _, element in sorted(places, key=lambda place: place[0])]


def pairs_at(step: int, examples: int, pairs: int, recipe: Recipe) -> list[int]:
    """Return the preference pairs of one optimizer step.

    Each epoch takes every pair once, in its own random order, spread evenly over the steps of the epoch. With few
    pairs, some steps have none.

    Args:
        step: Number of the step, from 0.
        examples: Number of training examples.
        pairs: Number of preference pairs.
        recipe: Gives batch size and seed.

    Returns:
        Indices of the pairs.
    """
    steps_per_epoch = math.ceil(examples / recipe.batch_size)
    epoch, step_in_epoch = divmod(step, steps_per_epoch)
    order = random.Random(f"{recipe.seed}:{epoch}:pairs").sample(range(pairs), pairs)
    return order[step_in_epoch * pairs // steps_per_epoch : (step_in_epoch + 1) * pairs // steps_per_epoch]


def learning_rate(step: int, steps: int, recipe: Recipe) -> float:
    """Return the learning rate of one optimizer step: linear warm-up, then cosine decay towards 0.

    Args:
        step: Number of the step, from 0.
        steps: Number of steps of the session.
        recipe: Gives the peak learning rate and the share of warm-up steps.

    Returns:
        The learning rate.
    """
    peak, warmup = recipe.learning_rate, math.ceil(recipe.warmup_ratio * steps)
    assert peak is not None  # a session has chosen it for its base model
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))
