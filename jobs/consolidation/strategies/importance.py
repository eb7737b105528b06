"""Distances of updates weighted by importance, without making any ``[out, in]`` matrix."""

from collections.abc import Mapping

import torch
from torch import Tensor

from looper.jobs.consolidation.adapters.lora import Factors, Lora
from looper.jobs.consolidation.data.encode import Window
from looper.jobs.consolidation.strategies.strategy import Importance, StrategyContext


def distance(now: Lora, anchor: Lora | None, importance: Mapping[str, Importance]) -> Tensor:
    """sum_ij F_ij (dW - dW*)_ij^2 over all layers, F_ij = rows_i columns_j / mean(rows); dW* = 0 without an anchor.

    The difference of two updates is one product, U V with U = [b, -b*] and V = [a; a*]; weighted, U's rows by
    sqrt(rows) and V's columns by sqrt(columns), its squared norm is tr(U^T U V V^T): two small Gram matrices.
    """
    return torch.stack(
        [_distance(now[layer], None if anchor is None else anchor[layer], of) for layer, of in importance.items()]
    ).sum()


def _distance(now: Factors, anchor: Factors | None, importance: Importance) -> Tensor:
    u, v = now.scale * now.b, now.a
    if anchor is not None:
        u, v = torch.cat([u, -anchor.scale * anchor.b], dim=1), torch.cat([v, anchor.a])
    u = u * importance.rows.sqrt()[:, None]
    v = v * importance.columns.sqrt()
    mean = importance.rows.mean().clamp_min(torch.finfo(v.dtype).tiny)  # a layer without any gradient weighs nothing
    return ((u.T @ u) * (v @ v.T)).sum() / mean


def added(
    before: Mapping[str, Importance] | None, new: Mapping[str, Importance], decay: float
) -> dict[str, Importance]:
    """decay * before + new. The row and column means of a sum are the sums of the means."""
    if before is None:
        return dict(new)
    return {
        layer: Importance(decay * before[layer].rows + of.rows, decay * before[layer].columns + of.columns)
        for layer, of in new.items()
    }


def sampled(session: StrategyContext, count: int) -> list[Window]:
    """At most ``count`` of the new windows, the same whenever it is asked: each costs a backward pass."""
    return session.rng("importance").sample(list(session.windows), min(count, len(session.windows)))
