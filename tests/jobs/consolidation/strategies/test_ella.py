import pytest
import torch

from looper.jobs.consolidation.strategies.ella import Ella
from tests.jobs.consolidation.strategies.life import factors, parameters, random_lora, session


def test_the_overlap_by_hand() -> None:
    # dW_past = [[1, 2], [0, 3]], dW = [[2, 2], [5, 4]]: dW_t = [[1, 0], [5, 1]], dW_t * dW_past = [[1, 0], [0, 3]].
    identity = [[1.0, 0.0], [0.0, 1.0]]
    start = {"layer": factors([[1, 2], [0, 3]], identity)}
    lora = parameters({"layer": factors([[1, 1], [2.5, 2]], identity, scale=2)})
    strategy = Ella(weight=10)
    strategy.begin(session(lora, start), {})
    penalty = strategy.penalty()
    assert penalty is not None
    assert penalty.item() == pytest.approx(10 * (1 + 9))
    # d/d(dW) = 2 dW_t dW_past^2 = [[2, 0], [0, 18]], and dW = 2 b.
    (gradient,) = torch.autograd.grad(penalty, [lora["layer"].b])
    torch.testing.assert_close(gradient, 10 * 2 * torch.tensor([[2.0, 0.0], [0.0, 18.0]]))


def test_its_gradient_is_that_of_the_whole_matrices() -> None:
    start, lora = random_lora(1), parameters(random_lora(2, scale=0.5))
    strategy = Ella(weight=1)
    strategy.begin(session(lora, start), {})
    ours = strategy.penalty()
    assert ours is not None
    past = {layer: of.update() for layer, of in start.items()}
    whole = torch.stack([(((of.update() - past[x]) * past[x]) ** 2).sum() for x, of in lora.items()]).sum()
    torch.testing.assert_close(ours, whole)
    tensors = [tensor for of in lora.values() for tensor in (of.a, of.b)]
    expected = torch.autograd.grad(whole, tensors)
    for mine, theirs in zip(torch.autograd.grad(ours, tensors), expected, strict=True):
        torch.testing.assert_close(mine, theirs)
