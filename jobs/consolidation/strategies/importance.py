"""Importance-weighted distances between updates, computed without any ``[out, in]`` matrix.

The EWC strategies and Online-LoRA use them for their penalties.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from looper.jobs.consolidation.adapters.lora import Factors, Lora
from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.strategies.strategy import Importance, StrategyContext


def weighted_distance(now: Lora, anchor: Lora | None, importance: Mapping[str, Importance]) -> Tensor:
    """Return sum_ij F_ij (dW - dW*)_ij^2 over all layers, with F_ij = rows_i columns_j / mean(rows).

    The difference of two updates is one product, U V with U = [b, -b*] and V = [a; a*]; weighted, U's rows by
    sqrt(rows) and V's columns by sqrt(columns), its squared norm is tr(U^T U V V^T): two small Gram matrices.

    Args:
        now: The adapter in training, which makes dW.
        anchor: The adapter that makes dW*. None means dW* = 0.
        importance: F by layer. Layers that are missing here do not count.

    Returns:
        A scalar, differentiable in ``now``.
    """
    return torch.stack(
        [_layer_distance(now[layer], None if anchor is None else anchor[layer], of) for layer, of in importance.items()]
    ).sum()


def _layer_distance(now: Factors, anchor: Factors | None, importance: Importance) -> Tensor:
    u, v = now.scale * now.b, now.a
    if anchor is not None:
        u, v = torch.cat([u, -anchor.scale * anchor.b], dim=1), torch.cat([v, anchor.a])
    u = u * importance.rows.sqrt()[:, None]
    v = v * importance.columns.sqrt()
    mean = importance.rows.mean().clamp_min(torch.finfo(v.dtype).tiny)  # a layer without any gradient weighs nothing
    return ((u.T @ u) * (v @ v.T)).sum() / mean


def accumulate_importance(
    before: Mapping[str, Importance] | None, new: Mapping[str, Importance], decay: float
) -> dict[str, Importance]:
    """Return decay * before + new. The row and column means of a sum are the sums of the means.

    Args:
        before: The importance so far, by layer. None counts as zero.
        new: The importance to add, by layer.
        decay: The share of ``before`` that stays, from 0 to 1.
    """
    if before is None:
        return dict(new)
    return {
        layer: Importance(decay * before[layer].rows + of.rows, decay * before[layer].columns + of.columns)
        for layer, of in new.items()
    }


def sample_new_windows(session: StrategyContext, count: int) -> list[Window]:
    """Return up to ``count`` of the new windows of ``session``, the same ones in every call.

    Args:
        session: The session whose windows are sampled.
        count: Maximum number of windows. Each costs a backward pass.
    """
    return session.rng("importance").sample(list(session.windows), min(count, len(session.windows)))
