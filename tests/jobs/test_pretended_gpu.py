"""The GPU that is not there is as strict as a real one, and no stricter."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from tests.jobs.pretended_gpu import GPU, pretended_gpu

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def gpu() -> Iterator[None]:
    with pretended_gpu():
        yield


def there(*shape: int) -> Tensor:
    return torch.ones(*shape, device=GPU)


@pytest.mark.parametrize(
    "mix",
    [
        lambda: there(2) + torch.ones(2),
        lambda: torch.ones(2).add_(there(2)),
        lambda: there(2).mul_(torch.ones(2)),
        lambda: torch.ones(()).add_(there(())),
        lambda: torch.ones(2) + there(()),
        lambda: there(2, 2) @ torch.ones(2, 2),
        lambda: torch.mm(there(2, 2), there(2, 2), out=torch.ones(2, 2)),
        lambda: torch.cat([there(2), torch.ones(2)]),
        lambda: torch.stack([there(()), torch.ones(())]),
        lambda: there(2).index_select(0, torch.tensor([0])),
        lambda: torch._foreach_add_([there(2)], [torch.ones(2)]),
        lambda: there(2).uniform_(generator=torch.Generator()),
        lambda: torch.empty(2, device=GPU).lerp_(torch.ones(2), 0.5),
        lambda: nn.Linear(2, 2).to(GPU)(torch.ones(2)),
        lambda: there(2).numpy(),
    ],
)
def test_what_a_gpu_refuses(mix: Callable[[], object]) -> None:
    with pytest.raises((RuntimeError, TypeError)):
        mix()


@pytest.mark.parametrize(
    "made",
    [
        lambda: there(2) * torch.tensor(2.0),
        lambda: torch.tensor(2.0) * there(2),
        lambda: there(2) / 3,
        lambda: there(3)[torch.tensor([0, 2])],
        lambda: there(2).copy_(torch.ones(2)),
        lambda: torch.ones(2).to(GPU) + there(2),
        lambda: torch.ones(2).to(there(2)),
        lambda: torch.ones(2).cuda(),
        lambda: torch.zeros_like(there(2)),
        lambda: torch.zeros_like(torch.ones(2), device=GPU),
        lambda: there(2).new_zeros(3),
        lambda: torch.tensor([1], device="cuda"),
        lambda: there(2).to(torch.float64).detach().clone()[:1],
        lambda: nn.Linear(2, 2).to(GPU)(there(2)),
        lambda: nn.Parameter(there(2)).data,
    ],
)
def test_what_is_on_the_gpu(made: Callable[[], Tensor]) -> None:
    assert made().device == GPU
    assert made().is_cuda


@pytest.mark.parametrize(
    "made",
    [
        lambda: torch.ones(2),
        lambda: there(2).cpu(),
        lambda: there(2).to("cpu", torch.float64),
        lambda: torch.ones(2).copy_(there(2)),
        lambda: torch.zeros_like(there(2), device="cpu"),
        lambda: torch.tensor(there(2).tolist()),
        lambda: torch.tensor(there(2).sum().item()),
    ],
)
def test_what_is_not(made: Callable[[], Tensor]) -> None:
    assert made().device == CPU
    assert not made().is_cuda


def test_gradients_are_where_their_tensors_are() -> None:
    here, far = torch.ones(2, requires_grad=True), there(2).requires_grad_()
    seen: list[torch.device] = []
    product = here.to(GPU) * far
    product.register_hook(lambda gradient: seen.extend([gradient.device, gradient.cpu().device]))  # type: ignore[no-untyped-call]
    of_here, of_far = torch.autograd.grad(product.cpu().sum(), (here, far))
    assert (of_here.device, of_far.device) == (CPU, GPU)
    assert seen == [GPU, CPU]
