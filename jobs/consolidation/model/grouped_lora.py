"""LoRA for several adapters in one pass: each token gets the update of its own adapter.

``SharedBase`` calls ``add_lora_updates`` in a forward hook of each linear layer.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from looper.jobs.consolidation.adapters.lora import Factors
from looper.jobs.consolidation.data.packing import spans_of


def add_lora_updates(y: Tensor, x: Tensor, sizes: Sequence[int], factors: Sequence[Factors | None]) -> Tensor:
    """Add ``x dW^T`` to ``y`` in place, where each token's dW is that of its owner.

    Args:
        y: Output of the layer, ``[1, L, out]``, in the base model's number format.
        x: Input of the layer, ``[1, L, in]``, in the base model's number format.
        sizes: Number of tokens of each owner. The owners' tokens are consecutive in the row.
        factors: Float32 factors of each owner, of any rank; None for an owner that does not adapt this layer.

    Returns:
        ``y``, differentiable in ``x``, ``y`` and the factors.
    """
    owners = [(span, adapter) for span, adapter in zip(spans_of(sizes), factors, strict=True) if adapter is not None]
    spans, scales = [span for span, _ in owners], [adapter.scale for _, adapter in owners]
    flat = [tensor for _, adapter in owners for tensor in (adapter.a, adapter.b)]
    out: Tensor = _AddUpdates.apply(y, x, spans, scales, *flat)  # type: ignore[no-untyped-call]
    return out


class _AddUpdates(torch.autograd.Function):
    """A backward pass of its own: autograd through slices would make full gradients of ``x`` and ``y`` per owner."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, x: Tensor, spans: list[tuple[int, int]], scales: list[float], *flat: Tensor
    ) -> Tensor:
        rows, out = x[0], y[0]
        projected = []
        for (start, end), scale, a, b in zip(spans, scales, flat[::2], flat[1::2], strict=True):
            h = rows[start:end] @ a.to(x.dtype).T
            out[start:end].addmm_(h, b.to(x.dtype).T, alpha=scale)
            projected.append(h)
        ctx.mark_dirty(y)
        ctx.save_for_backward(x, *projected, *flat)
        ctx.spans, ctx.scales = spans, scales
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        projected, flat = saved[: len(ctx.spans)], saved[len(ctx.spans) :]
        rows, grad_out = x[0], grads[0][0]
        needs_grad = ctx.needs_input_grad[4:]
        covers_all = sum(end - start for start, end in ctx.spans) == len(rows)
        allocate = torch.empty_like if covers_all else torch.zeros_like
        grad_x = allocate(x) if ctx.needs_input_grad[1] else None
        grad_factors: list[Tensor | None] = []
        for i, ((start, end), scale, h) in enumerate(zip(ctx.spans, ctx.scales, projected, strict=True)):
            a, b = flat[2 * i], flat[2 * i + 1]
            piece = grad_out[start:end]
            grad_h = (piece @ b.to(x.dtype)).mul_(scale)
            if grad_x is not None:
                torch.mm(grad_h, a.to(x.dtype), out=grad_x[0, start:end])
            grad_factors.append((grad_h.T @ rows[start:end]).to(a.dtype) if needs_grad[2 * i] else None)
            grad_factors.append((piece.T @ h).mul_(scale).to(b.dtype) if needs_grad[2 * i + 1] else None)
        return grads[0], grad_x, None, None, *grad_factors
