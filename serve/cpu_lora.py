"""LoRA in vLLM's CPU engine as a few wide matrix products, where vLLM gathers each token's factors first.

The factors of all slots stand side by side: one product shrinks every token by every slot's ``a``, a mask keeps of it
what is the token's own, and another product expands that by every slot's ``b``. Of a batch over eight slots, seven
eighths of these multiplications are in vain; gathered, each token costs the reading of a whole adapter. The tokens of a
prompt that is read have one slot all, and are many: they are multiplied by its factors alone.

vLLM's own (0.29) also takes the last slot's adapter for a token that has none, whenever the batch holds one that has.
Here it gets none.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

LONG = 8
"""Rows with the same slot, from which on it pays to multiply them by themselves."""


class WideLora(PunicaWrapperCPU):  # type: ignore[misc]
    """What vLLM's LoRA layers call; see the module. Slots are counted from 0, and -1 is a token without an adapter."""

    _tokens: "Chosen | None" = None
    _samples: "Chosen | None" = None

    def update_metadata(
        self, mapping: LoRAMapping, lora_index_to_id: list[int | None], max_loras: int, vocab_size: int, **kwargs: Any
    ) -> None:
        super().update_metadata(mapping, lora_index_to_id, max_loras, vocab_size, **kwargs)
        self._tokens = choose(self.token_lora_indices)
        self._samples = choose(self.sampler_indices)

    def add_lora_linear(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: tuple[Tensor, ...],
        lora_b_stacked: tuple[Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        *,
        buffer: tuple[Tensor, ...] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add to each slice of ``y`` ``[T, sum of output_slices]`` its LoRA of ``x`` ``[T, in]``."""
        if self._tokens is None:
            return
        slices = torch.split(y.view(-1, y.shape[-1]), list(output_slices), dim=1)
        for part, a, b in zip(slices, lora_a_stacked, lora_b_stacked, strict=True):
            add(part, x.view(-1, x.shape[-1]), a, b, scale, self._tokens)

    def add_lora_logits(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: Tensor,
        lora_b_stacked: Tensor,
        scale: float,
        *,
        buffer: Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        """Add to the logits ``y`` ``[M, vocabulary]`` the head's LoRA of ``x`` ``[M, in]``."""
        if self._samples is not None:
            y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
            add(y[:, : lora_b_stacked.shape[2]], x, lora_a_stacked, lora_b_stacked, scale, self._samples)


@dataclass(frozen=True)
class Run:
    """Rows from ``begin`` to ``end``, not included, that all have ``slot``."""

    begin: int
    end: int
    slot: int


@dataclass(frozen=True)
class Chosen:
    """Which slot each row has: long runs of the same, and the rest.

    The rest are ``rows`` ``[R]``, whose slots are from ``first`` to ``last``; ``mask`` ``[R, last - first + 1, 1]``
    says which.
    """

    runs: tuple[Run, ...]
    rows: Tensor
    first: int
    last: int
    mask: Tensor


def choose(slots: Tensor) -> Chosen | None:
    """Of ``[T]`` slots, None if no row has any."""
    values, counts = torch.unique_consecutive(slots, return_counts=True)
    ends = counts.cumsum(0).tolist()
    runs = [
        Run(end - count, end, slot) for slot, count, end in zip(values.tolist(), counts.tolist(), ends, strict=True)
    ]
    long = tuple(run for run in runs if run.end - run.begin >= LONG and run.slot >= 0)
    single = slots >= 0
    for run in long:
        single[run.begin : run.end] = False
    rows = single.nonzero().squeeze(1)
    if not rows.numel():
        return Chosen(long, rows, 0, 0, rows) if long else None
    used = slots[rows]
    first, last = int(used.min()), int(used.max())
    return Chosen(long, rows, first, last, (used[:, None] == torch.arange(first, last + 1)).unsqueeze(2))


def add(y: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float, chosen: Chosen) -> None:
    """y += scale * x a^T b^T of each row's own slot, in place.

    ``y`` is ``[T, out]``, ``x`` ``[T, in]``, ``a`` ``[slots, 1, rank, in]`` and ``b`` ``[slots, 1, out, rank]``. Rows
    beyond those of ``chosen`` have no adapter: the engine fills batches up.
    """
    wide_b = _side_by_side(b)
    if rows := chosen.rows.numel():
        slots, rank = chosen.last - chosen.first + 1, a.shape[2]
        some_a = a[chosen.first : chosen.last + 1].reshape(slots * rank, -1)
        some_b = wide_b[:, chosen.first : chosen.last + 1].reshape(b.shape[2], slots * rank)
        shrunk = torch.mm(x[chosen.rows], some_a.T).view(rows, slots, rank).mul_(chosen.mask).view(rows, slots * rank)
        y.index_add_(0, chosen.rows, torch.mm(shrunk.to(y.dtype), some_b.T), alpha=scale)
    for run in chosen.runs:
        shrunk = torch.mm(x[run.begin : run.end], a[run.slot, 0].T)
        y[run.begin : run.end].addmm_(shrunk.to(y.dtype), wide_b[:, run.slot].T, alpha=scale)


def _side_by_side(b: Tensor) -> Tensor:
    """``b`` as ``[out, slots, rank]`` without a copy, for which its storage is laid out so when it is first seen.

    vLLM writes adapters into ``b`` in place, and goes on to see it as it made it.
    """
    slots, _, out, rank = b.shape
    if b.stride(0) != rank:
        wide = b.new_empty(out, slots, rank)
        wide.copy_(b.squeeze(1).transpose(0, 1))
        b.data = wide.transpose(0, 1).unsqueeze(1)
    return b.squeeze(1).transpose(0, 1)
