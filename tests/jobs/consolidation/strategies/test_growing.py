"""Progressive, O-LoRA, AM-LoRA and Online-LoRA: what was learned stays, and a block is trained beside it."""

import pytest
import torch

from looper.jobs.consolidation.adapters.lora import Lora, stack_adapters
from looper.jobs.consolidation.strategies.am_lora import AmLora
from looper.jobs.consolidation.strategies.importance import weighted_distance
from looper.jobs.consolidation.strategies.o_lora import OLora
from looper.jobs.consolidation.strategies.online_lora import LossSignal, OnlineLora, rank_for_energy
from looper.jobs.consolidation.strategies.progressive import Progressive
from looper.jobs.consolidation.strategies.strategy import Importance
from looper.jobs.consolidation.strategies.tensors import pack_importance, unpack_importance
from tests.jobs.consolidation.strategies.life import (
    factors,
    importance,
    parameters,
    random_lora,
    session,
    stored,
    window,
)

BLOCK = {"layer": factors([[1], [2]], [[3, -1]])}
"""dW = [[3, -1], [6, -2]]"""
START = {"layer": factors([[1, 0], [1, 1]], [[1, 0], [0, 2]], scale=2)}
"""dW = 2 [[1, 0], [1, 2]]"""


def update(lora: Lora) -> list[list[float]]:
    values: list[list[float]] = lora["layer"].update().tolist()
    return values


def test_progressive_publishes_all_blocks() -> None:
    strategy = Progressive()
    strategy.begin(session(parameters(BLOCK), START), {})
    assert strategy.frozen_lora() is START
    assert strategy.penalty() is None
    published = strategy.finish(BLOCK)
    assert published["layer"].rank == 3
    assert update(published) == [[2 + 3, 0 - 1], [2 + 6, 4 - 2]]


def test_o_lora_by_hand() -> None:
    # A_past A^T = [[1, 0], [0, 2]] [3; -1] = [3; -2]
    lora = parameters(BLOCK)
    strategy = OLora(weight=0.5)
    strategy.begin(session(lora, START), {})
    penalty = strategy.penalty()
    assert penalty is not None
    assert penalty.item() == pytest.approx(0.5 * (3 + 2))
    (gradient,) = torch.autograd.grad(penalty, [lora["layer"].a])
    assert gradient.tolist() == [[0.5 * 1, 0.5 * -2]]  # the signs, through A_past
    assert update(strategy.finish(BLOCK)) == [[5, -1], [8, 2]]


def test_am_lora_by_hand() -> None:
    lora = parameters(BLOCK)
    strategy = AmLora(weight=0.1, rate=10)
    strategy.begin(session(lora, START), {"ranks": torch.tensor([1, 1])})
    (theta,) = strategy.parameters()
    penalty = strategy.penalty()
    assert penalty is not None
    assert penalty.item() == pytest.approx(0.1 * 2)  # both gates are open
    with torch.no_grad():
        theta.copy_(torch.tensor([[-0.15, 0.1]]))  # gates 1 + 10 theta = -0.5 and 2
    # 2 (-0.5 [1; 1] [1 0] + 2 [0; 1] [0 2]) = 2 [[-0.5, 0], [-0.5, 4]]
    beside = strategy.frozen_lora()
    penalty = strategy.penalty()
    assert beside is not None
    assert penalty is not None
    assert update(beside) == [[-1, 0], [-1, 8]]
    assert penalty.item() == pytest.approx(0.1 * (0.5 + 2))
    # The sum of dW moves with a gate by its block's sum, 2 * 2 for each, times the rate.
    (gradient,) = torch.autograd.grad(beside["layer"].update().sum(), [theta])
    assert gradient.tolist() == [[40, 40]]
    published = strategy.finish(BLOCK)
    assert update(published) == [[-1 + 3, 0 - 1], [-1 + 6, 8 - 2]]
    assert stored(strategy.remember(published))["ranks"].tolist() == [1, 1, 1]


def test_am_lora_counts_blocks_that_were_truncated_as_one() -> None:
    strategy = AmLora()
    strategy.begin(session(parameters(BLOCK), START), {"ranks": torch.tensor([1, 1, 1])})
    assert strategy.parameters()[0].shape == (1, 1)
    assert strategy.remember(START)["ranks"].tolist() == [2, 1]


def test_am_lora_without_a_past_has_nothing_to_gate() -> None:
    strategy = AmLora()
    strategy.begin(session(parameters(BLOCK)), {})
    assert strategy.parameters() == []
    assert strategy.frozen_lora() is None
    assert strategy.remember(BLOCK)["ranks"].tolist() == [1]


def test_plateaus_and_peaks() -> None:
    signal = LossSignal(length=2, mean=1.0, variance=0.01)
    # Means and variances of two: (3.5, 0.25), (1.6, 1.96), (0.2, 0) is a plateau, the next the same one still, and
    # (0.35, 0.02) a peak above 0.2 + sqrt(0); (0.5, 0) is a plateau of its own, and then the same one still.
    losses = [4.0, 3.0, 0.2, 0.2, 0.2, 0.5, 0.5, 0.5]
    assert [signal.plateau(loss) for loss in losses] == [False, False, False, True, False, False, True, False]


def test_the_signal_goes_on_where_it_was() -> None:
    losses = [2.0, 0.5, 0.5, 0.6, 3.0, 0.5, 0.5, 0.5]
    straight, first = LossSignal(2, 1.0, 0.01), LossSignal(2, 1.0, 0.01)
    expected = [straight.plateau(loss) for loss in losses]
    for cut in range(len(losses)):
        second = LossSignal(2, 1.0, 0.01)
        second.resume(first.state())
        assert [second.plateau(loss) for loss in losses[cut:]] == expected[cut:]
        first.plateau(losses[cut])


def test_the_rank_that_holds_the_energy() -> None:
    # Singular values 3 and 1 in one layer, 1 and 0 in the other: squares 10 and 1 of 11.
    lora = {"one": factors([[3, 0], [0, 1]], [[1, 0], [0, 1]]), "two": factors([[1, 0], [0, 0]], [[1, 0], [0, 1]])}
    assert [rank_for_energy(lora, energy) for energy in (0.5, 0.90, 0.95, 1.0)] == [1, 1, 2, 2]
    assert rank_for_energy({"layer": factors([[0, 0]], [[0], [0]])}, 0.95) == 1


def test_online_lora_holds_the_new_block() -> None:
    # Before a plateau dW* = 0. F = [1; 3] [2 2] / 2 = [[1, 1], [3, 3]]; dW = [[3, -1], [6, -2]].
    of = {"layer": Importance(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0]))}
    strategy = OnlineLora(weight=2)
    strategy.begin(session(parameters(BLOCK), START), stored(pack_importance(of)))
    penalty = strategy.penalty()
    assert penalty is not None
    assert penalty.item() == pytest.approx(2 / 2 * (9 + 1 + 3 * 36 + 3 * 4))


def test_a_plateau_moves_the_anchor_and_adds_importance() -> None:
    start, block = random_lora(1), random_lora(2)
    windows = [window(i, j) for i in range(4) for j in range(4)]
    lora = parameters(block)
    strategy = OnlineLora(weight=2, hard=16, length=2, mean=1.0, variance=0.1)
    strategy.begin(session(lora, start, windows), {})
    strategy.after_step(0.5)
    assert strategy.penalty() is None
    strategy.after_step(0.5)
    with torch.no_grad():
        lora["up"].b.add_(1.0)
    penalty = strategy.penalty()
    assert penalty is not None
    of = importance(stack_adapters(start, block), windows)
    torch.testing.assert_close(penalty, weighted_distance(lora, block, of))
    published = stack_adapters(start, block)
    after = unpack_importance(stored(strategy.remember(published)), published)
    torch.testing.assert_close(after["up"].rows, 2 * of["up"].rows)


def test_importance_is_of_the_windows_with_the_highest_loss() -> None:
    lora = random_lora(1)
    windows = [window(i, j) for i in range(2) for j in range(2)]
    strategy = OnlineLora(hard=1)
    begun = session(parameters(lora), None, windows)
    strategy.begin(begun, {})
    losses = begun.losses(lora, windows)
    hardest = windows[losses.index(max(losses))]
    after = unpack_importance(stored(strategy.remember(lora)), lora)
    torch.testing.assert_close(after["up"].rows, importance(lora, [hardest])["up"].rows)


def test_online_lora_publishes_no_more_rank_than_it_needs() -> None:
    # The new block's singular values are 10 and 1: 100 of 101 is more than 95 %.
    block = {"layer": factors([[10, 0], [0, 1]], [[1, 0], [0, 1]])}
    strategy = OnlineLora(energy=0.95)
    strategy.begin(session(parameters(block), START), {})
    published = strategy.finish(block)
    assert published["layer"].rank == 2 + 1
    torch.testing.assert_close(published["layer"].update(), torch.tensor([[2.0 + 10, 0.0], [2.0, 4.0]]))
