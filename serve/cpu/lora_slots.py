"""Adapter slots of a CPU engine's layers, and the calls of the LoRA kernel.

``lora_layers`` puts these in place of vLLM's slots. An engine's step calls the kernel once for each linear layer, more
than a hundred times, so the overhead of a call matters. A call is one parallel region on PyTorch's own threads, entered
through their OpenMP library. Numba's own threads would compete with them for the cores.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from looper.serve.cpu.kernel_layout import RANK_MULTIPLE
from looper.serve.cpu.lora_kernel import MAX_SLICES, TILE_ROWS, KernelArguments, run_thread
from looper.serve.cpu.openmp import load_openmp_parallel

# The interpreter lock is kept: another thread that took it meanwhile would keep it for longer than a call lasts.
_openmp_parallel = load_openmp_parallel(ctypes.PyDLL)


@dataclass(frozen=True)
class RowTiles:
    """The rows of a batch that have an adapter, sorted by slot, in tiles of at most ``TILE_ROWS`` rows of one slot."""

    rows: NDArray[np.int64]
    """``[R]``: index of each row in the batch."""
    slots: NDArray[np.int64]
    """``[R]``: slot of each row."""
    bounds: NDArray[np.int64]
    """``[tiles + 1]``: where each tile begins in ``rows``, and where the last one ends."""


def tile_rows_by_slot(slots: NDArray[np.int64]) -> RowTiles | None:
    """Sort the rows of a batch by slot and divide them into tiles.

    Args:
        slots: ``[T]``: slot of each row. -1: the row has no adapter.

    Returns:
        The tiles. None, if no row has an adapter.
    """
    rows = np.argsort(slots, kind="stable")
    rows = rows[np.searchsorted(slots[rows], 0) :]
    if not rows.size:
        return None
    sorted_slots, index = slots[rows], np.arange(rows.size)
    slot_begins = np.flatnonzero(np.diff(sorted_slots, prepend=-1))
    rows_per_slot = np.diff(slot_begins, append=rows.size)
    index_in_slot = index - np.repeat(slot_begins, rows_per_slot)
    return RowTiles(rows, sorted_slots, np.append(np.flatnonzero(index_in_slot % TILE_ROWS == 0), rows.size))


PackedFactors = tuple[Tensor, Tensor]
"""Factors of one layer for the kernel: contiguous bfloat16 ``a`` ``[rank, inputs]`` and ``b`` ``[rank, outputs]``.

The rank is a multiple of ``RANK_MULTIPLE``.
"""


def pack_factors(a: Tensor, b: Tensor) -> PackedFactors:
    """Convert PEFT's factors to the kernel's layout. A factor that has the layout already is not copied.

    Args:
        a: ``[rank, inputs]``.
        b: ``[outputs, rank]``.

    Returns:
        The factors for the kernel.
    """
    padding = -len(a) % RANK_MULTIPLE
    if padding:
        a, b = pad(a, (0, 0, 0, padding)), pad(b, (0, padding))
    return a.bfloat16().contiguous(), b.t().bfloat16().contiguous()


class LayerSlots:
    """The adapter slots of one linear layer, or of several that vLLM has merged because they have the same input.

    A slot points to an adapter's factors, so that another adapter takes it without a copy.
    """

    def __init__(self, slots: int, inputs: int, outputs: Sequence[int]) -> None:
        """Create empty slots.

        Args:
            slots: Number of slots.
            inputs: Number of input features.
            outputs: Number of output features of each merged layer (slice).

        Raises:
            ValueError: There are more than ``MAX_SLICES`` slices.
        """
        if len(outputs) > MAX_SLICES:
            raise ValueError(f"the LoRA kernel supports at most {MAX_SLICES} merged layers, but got {len(outputs)}")
        self.inputs, self.outputs = inputs, tuple(outputs)
        self._ranks, self._a, self._b = (np.zeros((len(outputs), slots), np.int64) for _ in range(3))
        self._references: list[tuple[Tensor, ...]] = [()] * slots  # keeps the tensors that slots point to alive
        self._call = call = KernelArguments(inputs=inputs, num_slices=len(outputs), num_slots=slots)
        call.address = ctypes.addressof(call)
        call.outputs[: len(outputs)] = self.outputs
        call.ranks, call.a, call.b = (table.ctypes.data for table in (self._ranks, self._a, self._b))

    def set_slot(self, slot: int, factors: Sequence[PackedFactors | None]) -> None:
        """Point a slot to an adapter.

        Args:
            slot: Index of the slot.
            factors: Factors of each slice. None: the adapter does not change the slice.
        """
        references: list[Tensor] = []
        for part, slice_factors in enumerate(factors):
            if slice_factors is None:
                self._ranks[part, slot] = 0
                continue
            a, b = slice_factors
            self._ranks[part, slot] = len(a)
            self._a[part, slot], self._b[part, slot] = a.data_ptr(), b.data_ptr()
            references += slice_factors
        self._references[slot] = tuple(references)
        self._call.max_rank = int(self._ranks.max())

    def add_lora(self, y: Tensor, x: Tensor, scale: float, tiles: RowTiles) -> None:
        """Compute ``y += scale * x A^T B^T`` in place, with the adapter of each row's slot.

        Args:
            y: ``[T, sum of outputs, or more]``, float32 or bfloat16. The slices lie side by side.
            x: ``[T, inputs]``, of the same type.
            scale: Factor of the update.
            tiles: The rows that have an adapter.

        Raises:
            ValueError: The tensors have other types, or their rows are not contiguous.
        """
        if not (x.dtype == y.dtype in (torch.float32, torch.bfloat16) and x.stride(1) == y.stride(1) == 1):
            raise ValueError(
                f"x ({x.dtype}, strides {x.stride()}) and y ({y.dtype}, strides {y.stride()}) must both be float32 or "
                "both bfloat16, with contiguous rows"
            )
        call = self._call
        call.is_bfloat16 = x.dtype == torch.bfloat16
        call.next_tile, call.tiles, call.scale = 0, len(tiles.bounds) - 1, scale
        call.bounds, call.rows, call.slots = (array.ctypes.data for array in (tiles.bounds, tiles.rows, tiles.slots))
        call.x, call.x_stride, call.y, call.y_stride = x.data_ptr(), x.stride(0), y.data_ptr(), y.stride(0)
        if _openmp_parallel is None:
            run_thread.ctypes(ctypes.byref(call))
        else:
            _openmp_parallel(run_thread.address, call.address, min(torch.get_num_threads(), call.tiles), 0)
