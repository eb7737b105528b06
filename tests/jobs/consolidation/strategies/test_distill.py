from dataclasses import replace
from math import log

import pytest
import torch

from looper.jobs.consolidation.strategies.distill import Distill
from tests.jobs.consolidation.strategies.life import factors, parameters, random_lora, session, window


def test_the_divergence_by_hand() -> None:
    # After token 0 the start's logits are (0, ln 9), at temperature 2 (0, ln 3): p = (1/4, 3/4). Now they are (0, 0):
    # q = (1/2, 1/2) and KL(p || q) = 1/4 ln(1/2) + 3/4 ln(3/2). After token 1 both agree: the mean is half of it.
    start = {"layer": factors([[0], [log(9)]], [[1, 0]])}
    lora = parameters({"layer": factors([[0], [0]], [[1, 0]])})
    divergence = (0.25 * log(1 / 2) + 0.75 * log(3 / 2)) / 2
    strategy = Distill(weight=3, temperature=2, windows_per_step=2)
    strategy.begin(session(lora, start, [window(0, 1), window(1, 0)]), {})
    penalty = strategy.penalty()
    assert penalty is not None
    assert penalty.item() == pytest.approx(3 * 2**2 * divergence, rel=1e-5)
    # d/d(logit) = weight T^2 / T (q - p) / 2 = 3 (q - p), at token 0 only; b = logit.
    (gradient,) = torch.autograd.grad(penalty, [lora["layer"].b])
    torch.testing.assert_close(gradient, 3 * torch.tensor([[0.25], [-0.25]]))


def test_windows_take_turns() -> None:
    windows = [window(i, 0) for i in range(3)]
    seen: list[int] = []

    def logits(lora: object, some: object) -> torch.Tensor:
        assert isinstance(some, list)
        seen.extend(each.tokens[0] for each in some)
        return torch.zeros(len(some), 4)

    strategy = Distill(windows_per_step=2)
    lora = random_lora(1)
    strategy.begin(replace(session(parameters(lora), lora, windows), logits=logits), {})
    for _ in range(3):
        strategy.penalty()
        strategy.after_step(1.0)
    turns = [tuple(seen[i : i + 2]) for i in range(0, len(seen), 4)]  # teacher and student see the same two
    assert sorted(token for turn in turns for token in turn) == [0, 0, 1, 1, 2, 2]


def test_old_windows_are_preferred() -> None:
    lora, old = random_lora(1), [window(3, 3)]
    moved = parameters(random_lora(2))
    penalties = []
    for begun in (
        replace(session(moved, lora, [window(0, 0)]), old=old),
        session(moved, lora, old),
    ):
        strategy = Distill()
        strategy.begin(begun, {})
        penalties.append(strategy.penalty())
    assert penalties[0] is not None
    assert penalties[0] == penalties[1]
