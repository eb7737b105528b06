"""The schedule: batches, pairs and learning rates of each step."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from looper.jobs.consolidation.training.schedule import (
    batch_at,
    batch_with_once_at,
    epoch_count,
    learning_rate,
    once_per_epoch,
    pairs_at,
    spread_evenly,
    total_steps,
)
from looper.platform.domain.recipe import Recipe


@given(st.integers(1, 200), st.integers(1, 9), st.integers(1, 3), st.integers(0, 5))
def test_every_epoch_takes_each_example_once(examples: int, size: int, epochs: int, seed: int) -> None:
    recipe = Recipe(batch_size=size, epochs=epochs, seed=seed)
    batches = [batch_at(step, examples, recipe) for step in range(total_steps(examples, recipe))]
    per_epoch = len(batches) // epochs
    for start in range(0, len(batches), per_epoch):
        indices = [i for batch in batches[start : start + per_epoch] for i in batch]
        assert sorted(indices) == list(range(examples))


def test_the_order_depends_on_epoch_and_seed_only() -> None:
    recipe = Recipe(batch_size=8)
    assert batch_at(3, 64, recipe) == batch_at(3, 64, recipe)
    assert batch_at(3, 64, recipe) != batch_at(3 + 8, 64, recipe)
    assert batch_at(3, 64, recipe) != batch_at(3, 64, recipe.model_copy(update={"seed": 1}))


def test_max_steps_limits_the_total() -> None:
    assert total_steps(17, Recipe(batch_size=8, epochs=3)) == 9
    assert total_steps(17, Recipe(batch_size=8, epochs=3, max_steps=4)) == 4
    assert total_steps(17, Recipe(batch_size=8, epochs=1, max_steps=40)) == 3


def test_the_learning_rate_rises_then_falls() -> None:
    recipe = Recipe(learning_rate=1.0, warmup_ratio=0.1)
    rates = [learning_rate(step, 100, recipe) for step in range(100)]
    assert rates[0] == 0.1
    assert rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.01
    assert learning_rate(0, 1, Recipe(learning_rate=1.0, warmup_ratio=0.0)) == 1.0
    assert learning_rate(0, 1, Recipe(learning_rate=1.0, warmup_ratio=1.0)) == 1.0


@given(st.integers(0, 40))
def test_every_epoch_takes_each_pair_once_and_spreads_them(pairs: int) -> None:
    recipe = Recipe(batch_size=4)
    epochs = [[pairs_at(epoch * 5 + place, 17, pairs, recipe) for place in range(5)] for epoch in range(2)]
    for steps in epochs:
        assert sorted(i for indices in steps for i in indices) == list(range(pairs))
        assert max(map(len, steps)) - min(map(len, steps)) <= 1


@given(st.integers(1, 40), st.integers(0, 60), st.integers(1, 9), st.integers(1, 4))
def test_every_epoch_takes_each_new_example_and_its_part_of_the_old_ones(
    new: int, old: int, size: int, epochs: int
) -> None:
    recipe = Recipe(batch_size=size, epochs=epochs)
    assert epoch_count(new, recipe) == epochs
    per_epoch = new + once_per_epoch(old, epochs)
    steps = range(total_steps(per_epoch, recipe))
    taken = [i for step in steps for i in batch_with_once_at(step, new, old, epochs, recipe)]
    assert len(taken) == epochs * per_epoch
    assert Counter(i for i in taken if i < new) == dict.fromkeys(range(new), epochs)
    replayed = Counter(i - new for i in taken if i >= new)
    assert replayed.keys() == set(range(old))
    if old:
        assert replayed.total() - old < epochs


def test_a_maximum_of_steps_counts_as_that_many_epochs() -> None:
    assert [epoch_count(17, Recipe(batch_size=8, epochs=9, max_steps=most)) for most in (1, 3, 4, 7)] == [1, 1, 2, 3]
    assert epoch_count(0, Recipe()) == 1


def test_lists_are_spread_evenly() -> None:
    assert spread_evenly("abcdef", "12", "") == ["a", "b", "1", "c", "d", "e", "2", "f"]
    assert spread_evenly("abc") == ["a", "b", "c"]
    assert spread_evenly() == []
