"""A LoRA adapter as its factors, layer by layer, and the forms it takes on the way to a file that vLLM reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True)
class Factors:
    """The update of one linear layer, dW = scale * b @ a. Parameters while they are trained, else plain tensors."""

    a: Tensor
    """``[rank, in]``"""
    b: Tensor
    """``[out, rank]``"""
    scale: float = 1.0

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    def update(self) -> Tensor:
        """dW ``[out, in]``."""
        return self.scale * self.b @ self.a

    def to(self, device: torch.device) -> "Factors":
        return Factors(self.a.to(device), self.b.to(device), self.scale)

    def copy(self) -> "Factors":
        """The same values, apart from any graph and from later changes."""
        return Factors(self.a.detach().clone(), self.b.detach().clone(), self.scale)


Lora: TypeAlias = Mapping[str, Factors]
"""By the layer's name in the base model, such as ``model.layers.0.self_attn.q_proj``."""


def rank_of(lora: Lora) -> int:
    """The largest rank of its layers."""
    return max(factors.rank for factors in lora.values())


def stack(*blocks: Lora) -> dict[str, Factors]:
    """One adapter whose update is the sum of the updates of ``blocks``: their ranks add up, its scale is 1."""
    layers = blocks[0].keys()
    assert all(block.keys() == layers for block in blocks), "blocks of different base models"
    return {
        layer: Factors(
            torch.cat([block[layer].a for block in blocks]),
            torch.cat([block[layer].scale * block[layer].b for block in blocks], dim=1),
        )
        for layer in layers
    }


def truncate(lora: Lora, rank: int) -> tuple[dict[str, Factors], float]:
    """The best adapter of ``rank`` in the Frobenius norm, with scale 1, and its error ||dW - dW'|| / ||dW||.

    Norms are over all layers. By the singular value decomposition (Eckart and Young, 1936).
    """
    kept: dict[str, Factors] = {}
    lost = whole = 0.0
    for layer, factors in lora.items():
        u, s, v = svd(factors)
        kept[layer] = _padded(_halved(u, s, v, rank, factors.a.dtype), rank)
        lost += float((s[rank:] ** 2).sum())
        whole += float((s**2).sum())
    return kept, (lost / whole) ** 0.5 if whole else 0.0


def svd(factors: Factors) -> tuple[Tensor, Tensor, Tensor]:
    """u ``[out, k]``, s ``[k]`` and v ``[k, in]`` of dW = u diag(s) v, in float64.

    Taken of two small triangular factors (QR of b and of a transposed), so that no ``[out, in]`` matrix is made.
    """
    q_b, r_b = torch.linalg.qr(factors.scale * factors.b.detach().double())
    q_a, r_a = torch.linalg.qr(factors.a.detach().double().T)
    u, s, v = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    return q_b @ u, s, v @ q_a.T


def approximate(update: Tensor, rank: int) -> Factors:
    """Factors of ``rank`` and scale 1 for a whole dW ``[out, in]``, as near as the best ones but for a little.

    By a randomised singular value decomposition with four power iterations (Halko et al., 2011, arXiv 0909.4061), the
    same each time.
    """
    devices = [update.device] if update.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        u, s, v = torch.svd_lowrank(update, q=min(rank + 16, *update.shape), niter=4)
    return _padded(_halved(u, s, v.T, rank, update.dtype), rank)


def served(lora: Lora, max_rank: int) -> tuple[Lora, float]:
    """What of ``lora`` a server with ``max_rank`` can take, and the error of that as ``truncate`` has it."""
    return (lora, 0.0) if rank_of(lora) <= max_rank else truncate(lora, max_rank)


def _halved(u: Tensor, s: Tensor, v: Tensor, rank: int, dtype: torch.dtype) -> Factors:
    """The ``rank`` largest of a decomposition, each singular value shared by both factors."""
    root = s[:rank].sqrt()
    return Factors((root[:, None] * v[:rank]).to(dtype), (u[:, :rank] * root).to(dtype))


def _padded(factors: Factors, rank: int) -> Factors:
    """Of exactly ``rank``: a file has one rank for all layers."""
    missing = rank - factors.rank
    if missing == 0:
        return factors
    a = torch.cat([factors.a, factors.a.new_zeros(missing, factors.a.shape[1])])
    return Factors(a, torch.cat([factors.b, factors.b.new_zeros(factors.b.shape[0], missing)], dim=1), factors.scale)
