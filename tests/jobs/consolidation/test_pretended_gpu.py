"""The simulated GPU is exactly as strict as a real one."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from tests.jobs.consolidation.pretended_gpu import GPU, pretended_gpu

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def gpu() -> Iterator[None]:
    with pretended_gpu():
        yield


def on_gpu(*shape: int) -> Tensor:
    return torch.ones(*shape, device=GPU)


@pytest.mark.parametrize(
    "mix",
    [
        lambda: on_gpu(2) + torch.ones(2),
        lambda: torch.ones(2).add_(on_gpu(2)),
        lambda: on_gpu(2).mul_(torch.ones(2)),
        lambda: torch.ones(()).add_(on_gpu(())),
        lambda: torch.ones(2) + on_gpu(()),
        lambda: on_gpu(2, 2) @ torch.ones(2, 2),
        lambda: torch.mm(on_gpu(2, 2), on_gpu(2, 2), out=torch.ones(2, 2)),
        lambda: torch.cat([on_gpu(2), torch.ones(2)]),
        lambda: torch.stack([on_gpu(()), torch.ones(())]),
        lambda: on_gpu(2).index_select(0, torch.tensor([0])),
        lambda: torch._foreach_add_([on_gpu(2)], [torch.ones(2)]),
        lambda: on_gpu(2).uniform_(generator=torch.Generator()),
        lambda: torch.empty(2, device=GPU).lerp_(torch.ones(2), 0.5),
        lambda: nn.Linear(2, 2).to(GPU)(torch.ones(2)),
        lambda: on_gpu(2).numpy(),
    ],
)
def test_operations_that_a_gpu_refuses(mix: Callable[[], object]) -> None:
    with pytest.raises((RuntimeError, TypeError)):
        mix()


@pytest.mark.parametrize(
    "made",
    [
        lambda: on_gpu(2) * torch.tensor(2.0),
        lambda: torch.tensor(2.0) * on_gpu(2),
        lambda: on_gpu(2) / 3,
        lambda: on_gpu(3)[torch.tensor([0, 2])],
        lambda: on_gpu(2).copy_(torch.ones(2)),
        lambda: torch.ones(2).to(GPU) + on_gpu(2),
        lambda: torch.ones(2).to(on_gpu(2)),
        lambda: torch.ones(2).cuda(),
        lambda: torch.zeros_like(on_gpu(2)),
        lambda: torch.zeros_like(torch.ones(2), device=GPU),
        lambda: on_gpu(2).new_zeros(3),
        lambda: torch.tensor([1], device="cuda"),
        lambda: on_gpu(2).to(torch.float64).detach().clone()[:1],
        lambda: nn.Linear(2, 2).to(GPU)(on_gpu(2)),
        lambda: nn.Parameter(on_gpu(2)).data,
    ],
)
def test_results_on_the_gpu(made: Callable[[], Tensor]) -> None:
    assert made().device == GPU
    assert made().is_cuda


@pytest.mark.parametrize(
    "made",
    [
        lambda: torch.ones(2),
        lambda: on_gpu(2).cpu(),
        lambda: on_gpu(2).to("cpu", torch.float64),
        lambda: torch.ones(2).copy_(on_gpu(2)),
        lambda: torch.zeros_like(on_gpu(2), device="cpu"),
        lambda: torch.tensor(on_gpu(2).tolist()),
        lambda: torch.tensor(on_gpu(2).sum().item()),
    ],
)
def test_results_on_the_cpu(made: Callable[[], Tensor]) -> None:
    assert made().device == CPU
    assert not made().is_cuda


def test_gradients_are_on_the_device_of_their_tensors() -> None:
    cpu_tensor, gpu_tensor = torch.ones(2, requires_grad=True), on_gpu(2).requires_grad_()
    devices: list[torch.device] = []
    product = cpu_tensor.to(GPU) * gpu_tensor
    product.register_hook(lambda gradient: devices.extend([gradient.device, gradient.cpu().device]))  # type: ignore[no-untyped-call]
    cpu_gradient, gpu_gradient = torch.autograd.grad(product.cpu().sum(), (cpu_tensor, gpu_tensor))
    assert (cpu_gradient.device, gpu_gradient.device) == (CPU, GPU)
    assert devices == [GPU, CPU]
