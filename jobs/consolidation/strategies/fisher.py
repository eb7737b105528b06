"""The diagonal of the empirical Fisher information: how much the loss depends on each entry of an adapter.

``training/session.py`` offers both functions to strategies as ``importance`` and ``factor_importance``.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from looper.jobs.consolidation.adapters.lora import Factors, Lora
from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.strategies.strategy import Importance


def estimate_update_importance(base: SharedBase, lora: Lora, windows: Sequence[Window]) -> dict[str, Importance]:
    """Estimate the importance of each entry of dW: its squared gradient, averaged over ``windows``.

    Args:
        base: The shared base model.
        lora: The adapter that makes dW.
        windows: The windows. Each takes a forward and a backward pass.

    Returns:
        The row means and column means of the squared gradients, by layer, on the adapter's device.
    """
    squares = {
        layer: Importance(
            torch.zeros(each.b.shape[0], device=each.b.device), torch.zeros(each.a.shape[1], device=each.a.device)
        )
        for layer, each in lora.items()
    }

    def watch(layer: str, _module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        x = inputs[0][0].detach()

        def add(gradient: Tensor) -> None:
            square = (gradient[0].T.float() @ x.float()).square_()
            squares[layer].rows.add_(square.mean(1), alpha=1 / len(windows))
            squares[layer].columns.add_(square.mean(0), alpha=1 / len(windows))

        output.register_hook(add)  # type: ignore[no-untyped-call]

    # These hooks run after those that add the updates, so the output that they see includes the update.
    watching = [base.linear_layers[layer].register_forward_hook(partial(watch, layer)) for layer in lora]
    try:
        for _ in _gradients(base, lora, windows):
            pass
    finally:
        for handle in watching:
            handle.remove()
    return squares


def estimate_factor_importance(base: SharedBase, lora: Lora, windows: Sequence[Window]) -> dict[str, Factors]:
    """Estimate the importance of each entry of the factors: its squared gradient, averaged over ``windows``.

    Args:
        base: The shared base model.
        lora: The adapter.
        windows: The windows. Each takes a forward and a backward pass.

    Returns:
        The mean squared gradients of ``a`` and ``b``, in factors of the same shapes, by layer.
    """
    squares = {
        layer: Factors(torch.zeros_like(each.a.detach()), torch.zeros_like(each.b.detach()))
        for layer, each in lora.items()
    }
    for gradients in _gradients(base, lora, windows):
        for layer, each in gradients.items():
            squares[layer].a.addcmul_(each.a, each.a, value=1 / len(windows))
            squares[layer].b.addcmul_(each.b, each.b, value=1 / len(windows))
    return squares


def _gradients(base: SharedBase, lora: Lora, windows: Sequence[Window]) -> Iterator[dict[str, Factors]]:
    """Yield the gradients of the mean loss of each window, one pass per window."""
    with torch.enable_grad():
        acting = {
            layer: Factors(each.a.detach().requires_grad_(), each.b.detach().requires_grad_(), each.scale)
            for layer, each in lora.items()
        }
        for window in windows:
            packed = base.pack([[window]])
            loss = (base.losses(packed, [acting]) * packed.weights).sum() / packed.weights.sum()
            found = torch.autograd.grad(loss, [side for each in acting.values() for side in (each.a, each.b)])
            yield {layer: Factors(a, b) for layer, a, b in zip(acting, found[::2], found[1::2], strict=True)}
