"""A LoRA adapter as its factors, layer by layer, and the operations on it: add, truncate, fit to the served rank.

The trainer, the strategies and ``adapter_file.py`` use it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True)
class Factors:
    """The update of one linear layer, dW = scale * b @ a. In training, ``a`` and ``b`` are parameters."""

    a: Tensor
    """``[rank, in]``."""
    b: Tensor
    """``[out, rank]``."""
    scale: float = 1.0
    """LoRA's alpha / rank, or rsLoRA's alpha / sqrt(rank)."""

    @property
    def rank(self) -> int:
        """The rank of this layer's update."""
        return self.a.shape[0]

    def update(self) -> Tensor:
        """Return dW, ``[out, in]``."""
        return self.scale * self.b @ self.a

    def to(self, device: torch.device) -> "Factors":
        """Return the same factors on ``device``."""
        return Factors(self.a.to(device), self.b.to(device), self.scale)

    def float(self) -> "Factors":
        """Return the same factors in float32, in which adapters are trained. A start may have numbers of 16 bits."""
        return Factors(self.a.float(), self.b.float(), self.scale)

    def copy(self) -> "Factors":
        """Return a copy, detached from the autograd graph and from later changes."""
        return Factors(self.a.detach().clone(), self.b.detach().clone(), self.scale)


Lora: TypeAlias = Mapping[str, Factors]
"""Factors by the layer's name in the base model, such as ``model.layers.0.self_attn.q_proj``."""


def adapter_rank(lora: Lora) -> int:
    """Return the largest rank of the layers of ``lora``."""
    return max(factors.rank for factors in lora.values())


def stack_adapters(*blocks: Lora) -> dict[str, Factors]:
    """Return one adapter whose update is the sum of the updates of ``blocks``.

    Args:
        *blocks: Adapters of the same base model.

    Returns:
        An adapter of scale 1, whose rank is the sum of the ranks of ``blocks``.
    """
    layers = blocks[0].keys()
    assert all(block.keys() == layers for block in blocks), "blocks of different base models"
    return {
        layer: Factors(
            torch.cat([block[layer].a for block in blocks]),
            torch.cat([block[layer].scale * block[layer].b for block in blocks], dim=1),
        )
        for layer in layers
    }


def truncate_rank(lora: Lora, rank: int) -> tuple[dict[str, Factors], float]:
    """Return the best approximation of ``lora`` with ``rank`` in the Frobenius norm (Eckart and Young, 1936).

    Args:
        lora: The adapter.
        rank: The rank of the result.

    Returns:
        The approximation dW', with scale 1, and its error ||dW - dW'|| / ||dW|| over all layers.
    """
    kept: dict[str, Factors] = {}
    lost = whole = 0.0
    for layer, factors in lora.items():
        u, s, v = svd_of_update(factors)
        kept[layer] = _pad_rank(_balanced_factors(u, s, v, rank, factors.a.dtype), rank)
        lost += float((s[rank:] ** 2).sum())
        whole += float((s**2).sum())
    return kept, (lost / whole) ** 0.5 if whole else 0.0


def svd_of_update(factors: Factors) -> tuple[Tensor, Tensor, Tensor]:
    """Return the singular value decomposition of dW = u diag(s) v, in float64.

    It is computed from two small triangular factors (QR of b and of a transposed), without any ``[out, in]`` matrix.

    Args:
        factors: The factors that make dW.

    Returns:
        u ``[out, k]``, s ``[k]`` in falling order, and v ``[k, in]``.
    """
    q_b, r_b = torch.linalg.qr(factors.scale * factors.b.detach().double())
    q_a, r_a = torch.linalg.qr(factors.a.detach().double().T)
    u, s, v = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    return q_b @ u, s, v @ q_a.T


def approximate_update(update: Tensor, rank: int) -> Factors:
    """Return factors that approximate a full dW nearly as well as the best ones.

    It uses a randomized singular value decomposition with four power iterations (Halko et al., 2011, arXiv 0909.4061)
    and a fixed seed.

    Args:
        update: dW, ``[out, in]``.
        rank: The rank of the result.

    Returns:
        Factors of scale 1.
    """
    devices = [update.device] if update.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        u, s, v = torch.svd_lowrank(update, q=min(rank + 16, *update.shape), niter=4)
    return _pad_rank(_balanced_factors(u, s, v.T, rank, update.dtype), rank)


def fit_to_max_rank(lora: Lora, max_rank: int) -> tuple[Lora, float]:
    """Return ``lora`` with a rank that an engine with ``max_rank`` can serve.

    Args:
        lora: The adapter.
        max_rank: The largest rank that is served.

    Returns:
        The adapter, truncated if its rank is larger, and the relative error of the truncation.
    """
    return (lora, 0.0) if adapter_rank(lora) <= max_rank else truncate_rank(lora, max_rank)


def _balanced_factors(u: Tensor, s: Tensor, v: Tensor, rank: int, dtype: torch.dtype) -> Factors:
    """Return factors of the ``rank`` largest singular values, with each value shared equally by both factors."""
    root = s[:rank].sqrt()
    return Factors((root[:, None] * v[:rank]).to(dtype), (u[:, :rank] * root).to(dtype))


def _pad_rank(factors: Factors, rank: int) -> Factors:
    """Pad with zeros to exactly ``rank``, because a PEFT file has one rank for all layers."""
    missing = rank - factors.rank
    if missing == 0:
        return factors
    a = torch.cat([factors.a, factors.a.new_zeros(missing, factors.a.shape[1])])
    return Factors(a, torch.cat([factors.b, factors.b.new_zeros(factors.b.shape[0], missing)], dim=1), factors.scale)
