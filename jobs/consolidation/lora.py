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

    Norms are over all layers. By the singular value decomposition of the product, taken of two small triangular
    factors (QR of b and of a transposed), so that no ``[out, in]`` matrix is made. Eckart and Young, 1936.
    """
    kept: dict[str, Factors] = {}
    lost = whole = 0.0
    for layer, factors in lora.items():
        q_b, r_b = torch.linalg.qr(factors.scale * factors.b.detach().double())
        q_a, r_a = torch.linalg.qr(factors.a.detach().double().T)
        u, s, v = torch.linalg.svd(r_b @ r_a.T)
        root = s[:rank].sqrt()
        a = root[:, None] * (v[:rank] @ q_a.T)
        b = (q_b @ u[:, :rank]) * root
        kept[layer] = _padded(Factors(a.to(factors.a.dtype), b.to(factors.b.dtype)), rank)
        lost += float((s[rank:] ** 2).sum())
        whole += float((s**2).sum())
    return kept, (lost / whole) ** 0.5 if whole else 0.0


def served(lora: Lora, max_rank: int) -> tuple[Lora, float]:
    """What of ``lora`` a server with ``max_rank`` can take, and the error of that as ``truncate`` has it."""
    return (lora, 0.0) if rank_of(lora) <= max_rank else truncate(lora, max_rank)


def _padded(factors: Factors, rank: int) -> Factors:
    """Of exactly ``rank``: a file has one rank for all layers."""
    missing = rank - factors.rank
    if missing == 0:
        return factors
    a = torch.cat([factors.a, factors.a.new_zeros(missing, factors.a.shape[1])])
    return Factors(a, torch.cat([factors.b, factors.b.new_zeros(factors.b.shape[0], missing)], dim=1), factors.scale)
