"""LoRA for many owners at once: each token's update comes from its own owner's factors."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from looper.jobs.consolidation.adapters.lora import Factors
from looper.jobs.consolidation.data.packing import starts


def add_updates(y: Tensor, x: Tensor, sizes: Sequence[int], factors: Sequence[Factors | None]) -> Tensor:
    """``y + x dW^T`` in place of ``y``, where token by token dW is its owner's.

    ``x`` is ``[1, L, in]`` and ``y`` ``[1, L, out]``, in the base's number format; ``sizes`` are the owners' tokens in
    a row, and ``factors`` theirs, of any ranks, in float32; None for an owner that leaves this layer alone.
    """
    owners = [(span, each) for span, each in zip(starts(sizes), factors, strict=True) if each is not None]
    flat = [tensor for _, each in owners for tensor in (each.a, each.b)]
    out: Tensor = _AddUpdates.apply(y, x, [span for span, _ in owners], [each.scale for _, each in owners], *flat)  # type: ignore[no-untyped-call]
    return out


class _AddUpdates(torch.autograd.Function):
    """By hand, since autograd through slices would make a whole gradient of ``x`` and of ``y`` for each owner."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, x: Tensor, spans: list[tuple[int, int]], scales: list[float], *flat: Tensor
    ) -> Tensor:
        rows, out = x[0], y[0]
        inner = []
        for (start, end), scale, a, b in zip(spans, scales, flat[::2], flat[1::2], strict=True):
            h = rows[start:end] @ a.to(x.dtype).T
            out[start:end].addmm_(h, b.to(x.dtype).T, alpha=scale)
            inner.append(h)
        ctx.mark_dirty(y)
        ctx.save_for_backward(x, *inner, *flat)
        ctx.spans, ctx.scales = spans, scales
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *rest = ctx.saved_tensors
        inner, flat = rest[: len(ctx.spans)], rest[len(ctx.spans) :]
        rows, out = x[0], grads[0][0]
        needed = ctx.needs_input_grad[4:]
        everywhere = sum(end - start for start, end in ctx.spans) == len(rows)
        blank = torch.empty_like if everywhere else torch.zeros_like
        to_x = blank(x) if ctx.needs_input_grad[1] else None
        to_factors: list[Tensor | None] = []
        for i, ((start, end), scale, h) in enumerate(zip(ctx.spans, ctx.scales, inner, strict=True)):
            a, b = flat[2 * i], flat[2 * i + 1]
            piece = out[start:end]
            to_h = (piece @ b.to(x.dtype)).mul_(scale)
            if to_x is not None:
                torch.mm(to_h, a.to(x.dtype), out=to_x[0, start:end])
            to_factors.append((to_h.T @ rows[start:end]).to(a.dtype) if needed[2 * i] else None)
            to_factors.append((piece.T @ h).mul_(scale).to(b.dtype) if needed[2 * i + 1] else None)
        return grads[0], to_x, None, None, *to_factors
