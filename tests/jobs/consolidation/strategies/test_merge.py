from math import sqrt
from typing import get_args

import pytest
import torch

from looper.jobs.consolidation.adapters.lora import Lora
from looper.jobs.consolidation.strategies.merge import Merge, MergeKind
from tests.jobs.consolidation.strategies.life import factors, parameters, random_lora, session


def merged(strategy: Merge, start: Lora, trained: Lora, seed: int = 0) -> Lora:
    strategy.begin(session(parameters(trained), start, seed=seed), {})
    return strategy.finish(trained)


def test_cat_averages_the_updates_at_the_rank_they_have() -> None:
    # 0.25 * 2 * [[1, 2]] + 0.75 * [[4, 0]] = [[3.5, 1]], one row and so of rank 1
    start, trained = {"layer": factors([[1]], [[1, 2]], scale=2)}, {"layer": factors([[2]], [[2, 0]])}
    published = merged(Merge(old=0.25, new=0.75), start, trained)["layer"]
    assert published.rank == 1
    torch.testing.assert_close(published.update(), torch.tensor([[3.5, 1.0]]))


def test_cat_is_svd_at_a_fraction_of_its_cost() -> None:
    start, trained = random_lora(1), random_lora(2)
    by_svd, by_cat = (merged(Merge(kind=kind), start, trained) for kind in ("svd", "cat"))
    for layer, of in by_svd.items():
        torch.testing.assert_close(of.update(), by_cat[layer].update(), rtol=1e-4, atol=1e-4)


def test_linear_averages_the_factors() -> None:
    # a = sqrt(1/4) [4 0] + sqrt(1) [0 2] = [2 2]; b = sqrt(1/4) 6 + sqrt(1) 1 = 4
    start, trained = {"layer": factors([[6]], [[4, 0]])}, {"layer": factors([[1]], [[0, 2]])}
    published = merged(Merge(kind="linear", old=0.25, new=1), start, trained)["layer"]
    assert published.a.tolist() == [[2, 2]]
    assert published.b.tolist() == [[4]]


def test_ties_by_hand() -> None:
    # Half of each factor's entries stay: a keeps [4 0] and [0 -3], which do not meet, so that each stands: [4 -3].
    # b keeps [5; 0] and [-2; 0]; the sum 3 elects +, so -2 falls out and 5 stands alone: [5; 0].
    start, trained = {"layer": factors([[5], [1]], [[4, 1]])}, {"layer": factors([[-2], [1]], [[2, -3]])}
    published = merged(Merge(kind="ties", old=1, new=1, density=0.5), start, trained)["layer"]
    assert published.a.tolist() == [[4, -3]]
    assert published.b.tolist() == [[5], [0]]


def test_dare_drops_at_random_but_the_same_again() -> None:
    start, trained = random_lora(1), random_lora(2)
    strategy = Merge(kind="dare_linear")
    before = torch.random.get_rng_state()
    one, again = merged(strategy, start, trained), merged(strategy, start, trained)
    other = merged(strategy, start, trained, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(of.update(), again[layer].update()) for layer, of in one.items())
    assert any(not torch.equal(of.update(), other[layer].update()) for layer, of in one.items())
    # Half of the entries stay, doubled: each of a's is sqrt(1/2) times the sum of some of 2 a_start and 2 a_trained.
    x, y = 2 * sqrt(0.5) * start["up"].a, 2 * sqrt(0.5) * trained["up"].a
    distances = torch.stack([(one["up"].a - some).abs() for some in (torch.zeros_like(x), x, y, x + y)])
    assert distances.amin(0).max() < 1e-5


@pytest.mark.parametrize("kind", get_args(MergeKind))
def test_every_kind_merges_adapters_of_different_ranks(kind: MergeKind) -> None:
    start, trained = random_lora(1, rank=1, scale=2), random_lora(2, rank=3)
    published = merged(Merge(kind=kind), start, trained)
    assert published.keys() == trained.keys()
    assert all(torch.isfinite(of.update()).all() for of in published.values())
    assert all(of.update().shape == trained[layer].update().shape for layer, of in published.items())
