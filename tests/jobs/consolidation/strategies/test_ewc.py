import pytest
import torch

from looper.jobs.consolidation.adapters.lora import Factors
from looper.jobs.consolidation.strategies.ewc import Ewc, OnlineEwc, OnlineEwcFactors
from looper.jobs.consolidation.strategies.importance import accumulate_importance, weighted_distance
from looper.jobs.consolidation.strategies.strategy import Importance
from looper.jobs.consolidation.strategies.tensors import add_prefix, pack_importance, pack_lora, unpack_importance
from tests.jobs.consolidation.strategies.life import (
    VOCABULARY,
    factor_importance,
    factors,
    importance,
    parameters,
    random_lora,
    session,
    stored,
    window,
    zero_lora,
)

# dW = [1; 2] [3 1] = [[3, 1], [6, 2]] and dW* = 2 [1; 0] [1 1] = [[2, 2], [0, 0]]: the difference is [[1, -1], [6, 2]].
NOW = {"layer": factors([[1], [2]], [[3, 1]])}
ANCHOR = {"layer": factors([[1], [0]], [[1, 1]], scale=2)}
# F = [1; 3] [2 2] / 2 = [[1, 1], [3, 3]].
OF = {"layer": Importance(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0]))}


def test_the_weighted_distance_by_hand() -> None:
    assert weighted_distance(NOW, ANCHOR, OF).item() == pytest.approx(1 * 1 + 1 * 1 + 3 * 36 + 3 * 4)
    assert weighted_distance(NOW, None, OF).item() == pytest.approx(1 * 9 + 1 * 1 + 3 * 36 + 3 * 4)


def test_the_distance_and_its_gradient_equal_those_of_the_whole_matrices() -> None:
    now, anchor = parameters(random_lora(1, rank=3, scale=2.0)), random_lora(2, rank=2)
    of = importance(random_lora(3), [window(0, 1), window(2, 2)])
    fisher = {layer: torch.outer(of[layer].rows, of[layer].columns) / of[layer].rows.mean() for layer in of}
    whole = torch.stack([(fisher[x] * (now[x].update() - anchor[x].update()) ** 2).sum() for x in now]).sum()
    ours = weighted_distance(now, anchor, of)
    torch.testing.assert_close(ours, whole)
    tensors = [tensor for factors in now.values() for tensor in (factors.a, factors.b)]
    expected = torch.autograd.grad(whole, tensors)
    for mine, theirs in zip(torch.autograd.grad(ours, tensors), expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_layer_without_gradient_weighs_nothing() -> None:
    nothing = {"layer": Importance(torch.zeros(2), torch.zeros(2))}
    assert weighted_distance(NOW, ANCHOR, nothing) == 0


def test_importances_add_up_with_decay() -> None:
    twice = accumulate_importance(OF, OF, decay=0.5)
    assert twice["layer"].rows.tolist() == [1.5, 4.5]
    assert twice["layer"].columns.tolist() == [3, 3]


def test_ewc_has_a_term_for_each_past_session() -> None:
    here = {"layer": Importance(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 1.0]))}  # F = 1 everywhere
    past = add_prefix("0", pack_lora(ANCHOR) | pack_importance(OF)) | add_prefix(
        "1", pack_lora(NOW) | pack_importance(here)
    )
    strategy = Ewc(weight=10)
    strategy.begin(session(parameters(NOW), NOW), stored(past))
    penalty = strategy.penalty()
    assert penalty is not None
    assert penalty.item() == pytest.approx(10 / 2 * (122 + 0))
    strategy.begin(session(parameters(ANCHOR), NOW), stored(past))
    penalty = strategy.penalty()
    assert penalty is not None
    assert penalty.item() == pytest.approx(10 / 2 * (0 + 1 + 1 + 36 + 4), abs=1e-4)


def test_ewc_remembers_every_session() -> None:
    strategy = Ewc()
    version = random_lora(1)
    strategy.begin(session(parameters(zero_lora(0))), {})
    first = stored(strategy.remember(version))
    strategy.begin(session(parameters(version), version), first)
    second = stored(strategy.remember(version))
    assert len(second) == 2 * len(first)
    assert all(torch.equal(second[key], tensor) for key, tensor in first.items())


def test_online_ewc_by_hand() -> None:
    strategy = OnlineEwc(weight=3)
    strategy.begin(session(parameters(NOW), ANCHOR), stored(pack_importance(OF)))
    penalty = strategy.penalty()
    assert penalty is not None
    assert penalty.item() == pytest.approx(3 / 2 * 122)


def test_online_ewc_lets_importance_fade() -> None:
    windows = [window(0, 1), window(3, 2)]
    before = importance(random_lora(1), [window(1, 1)])
    strategy, published = OnlineEwc(gamma=0.5), random_lora(2)
    strategy.begin(session(parameters(published), random_lora(1), windows), stored(pack_importance(before)))
    after = unpack_importance(stored(strategy.remember(published)), published)
    for layer, new in importance(published, windows).items():
        torch.testing.assert_close(after[layer].rows, 0.5 * before[layer].rows + new.rows)
        torch.testing.assert_close(after[layer].columns, 0.5 * before[layer].columns + new.columns)


def test_importance_is_estimated_on_a_few_windows() -> None:
    windows = [window(i, j) for i in range(4) for j in range(4)]
    strategy, published = OnlineEwc(samples=1), random_lora(2)
    strategy.begin(session(parameters(published), None, windows), {})
    remembered = strategy.remember(published)
    alone = [pack_importance(importance(published, [each])) for each in windows]
    assert sum(all(torch.allclose(remembered[key], one[key]) for key in one) for one in alone) == 1
    assert all(torch.equal(strategy.remember(published)[key], remembered[key]) for key in remembered)


def test_online_ewc_on_the_factors_by_hand() -> None:
    # F of a is [1 2], of b [3; 4]. From a = [3 1], b = [1; 2] to a = [4 3], b = [1; 0]: 1*1 + 2*4 + 3*0 + 4*4 = 25.
    fisher = {"layer": factors([[3], [4]], [[1, 2]])}
    lora = parameters(NOW)
    strategy = OnlineEwcFactors(weight=2)
    strategy.begin(session(lora, NOW), stored(pack_lora(fisher)))
    penalty = strategy.penalty()
    assert penalty is not None
    assert penalty == 0
    with torch.no_grad():
        lora["layer"].a.copy_(torch.tensor([[4.0, 3.0]]))
        lora["layer"].b.copy_(torch.tensor([[1.0], [0.0]]))
    penalty = strategy.penalty()
    assert penalty is not None
    assert penalty.item() == pytest.approx(2 / 2 * 25)


def test_importance_of_factors_fades_and_starts_anew_at_another_rank() -> None:
    windows = [window(0, 1), window(3, 2)]
    published = random_lora(2)
    new = factor_importance(published, windows)
    past = {layer: Factors(torch.ones_like(of.a), torch.ones_like(of.b)) for layer, of in published.items()}
    strategy = OnlineEwcFactors(gamma=0.25)
    strategy.begin(session(parameters(published), published, windows), stored(pack_lora(past)))
    remembered = strategy.remember(published)
    for layer, of in new.items():
        torch.testing.assert_close(remembered[f"a/{layer}"], 0.25 + of.a)
        torch.testing.assert_close(remembered[f"b/{layer}"], 0.25 + of.b)
    # The same update with the scale elsewhere is the same to remember: the trainer's own scale counts.
    halved = {layer: Factors(of.a, of.b / 2, 2.0) for layer, of in published.items()}
    for key, tensor in strategy.remember(halved).items():
        torch.testing.assert_close(tensor, remembered[key])
    wider = random_lora(3, rank=3)
    strategy.begin(session(parameters(wider), wider, windows), stored(pack_lora(past)))
    assert strategy.penalty() is None
    assert strategy.remember(wider)["a/up"].shape == (3, VOCABULARY)
