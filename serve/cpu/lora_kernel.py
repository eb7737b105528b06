"""LoRA of a batch whose rows belong to many adapters: each adapter is read once, as it lies. Compiled by Numba.

A step of the engine calls this once for each linear layer, more than a hundred times, so what a call costs beside its
work counts. It is one region on the threads that PyTorch has anyway, entered through their OpenMP itself; Numba's own
threads would fight with those for the cores. Factors are bfloat16, as adapters' files are; sums are float32. A row of
``y`` is rounded once where it is bfloat16.
"""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from llvmlite import ir
from numba import carray, cfunc, from_dtype, njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from looper.serve.cpu.kernel_layout import STEP
from looper.serve.cpu.openmp import openmp_parallel

TILE = 4
"""Rows of one adapter, at most, for which a factor is widened once."""

PARTS = 3
"""Layers that vLLM puts together, at most: q, k and v."""

Function = TypeVar("Function", bound=Callable[..., Any])


class KernelArguments(ctypes.Structure):
    """What the threads of one call share: addresses and lengths."""

    _fields_ = (
        ("taken", ctypes.c_int64),  # tiles that threads have taken
        ("address", ctypes.c_int64),  # of this, and so of ``taken``
        ("tiles", ctypes.c_int64),
        ("bounds", ctypes.c_int64),  # [tiles + 1] int64: a tile is of the sorted rows from bounds[tile] to the next
        ("rows", ctypes.c_int64),  # int64, sorted by slot: where each is in x and y
        ("slots", ctypes.c_int64),  # int64
        ("x", ctypes.c_int64),  # [T, inputs]
        ("y", ctypes.c_int64),  # [T, sum of outputs, or more]
        ("narrow", ctypes.c_int64),  # x and y are bfloat16 if it is 1, and float32 if it is 0
        ("x_stride", ctypes.c_int64),
        ("y_stride", ctypes.c_int64),
        ("scale", ctypes.c_float),
        ("inputs", ctypes.c_int64),
        ("parts", ctypes.c_int64),
        ("slots_count", ctypes.c_int64),
        ("outputs", ctypes.c_int64 * PARTS),
        ("largest", ctypes.c_int64),  # rank of any slot
        ("ranks", ctypes.c_int64),  # int64 [parts, slots], 0 where an adapter leaves a part alone
        ("a", ctypes.c_int64),  # int64 [parts, slots]: addresses of bfloat16 [rank, inputs]
        ("b", ctypes.c_int64),  # int64 [parts, slots]: addresses of bfloat16 [rank, outputs]
    )


@intrinsic  # type: ignore[untyped-decorator]
def _pointer(context: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _float(context: Any, bits: Any) -> Any:
    """Of a bfloat16's bits, its value as a float32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = builder.zext(arguments[0], context.get_value_type(types.uint32))
        shifted = builder.shl(wide, context.get_constant(types.uint32, 16))
        return builder.bitcast(shifted, context.get_value_type(types.float32))

    return types.float32(types.uint16), generate


@intrinsic  # type: ignore[untyped-decorator]
def _bits(context: Any, number: Any) -> Any:
    """Of a float32, rounded to the nearest bfloat16, and to even between two."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = context.get_value_type(types.uint32)
        bits = builder.bitcast(arguments[0], kind)
        odd = builder.and_(builder.lshr(bits, kind(16)), kind(1))
        rounded = builder.add(bits, builder.add(kind(0x7FFF), odd))
        return builder.trunc(builder.lshr(rounded, kind(16)), context.get_value_type(types.uint16))

    return types.uint16(types.float32), generate


@intrinsic  # type: ignore[untyped-decorator]
def _take(context: Any, counter: Any) -> Any:
    """Of the int64 at an address, the value; it is one more for all threads afterwards."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number = context.get_value_type(types.int64)
        return builder.atomic_rmw(
            "add", builder.inttoptr(arguments[0], number.as_pointer()), number(1), ordering="monotonic"
        )

    return types.int64(types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _prefetch_line(context: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        to_read, into_l2, data = number(0), number(2), number(1)
        builder.call(prefetch, [builder.inttoptr(arguments[0], pointer), to_read, into_l2, data])
        return context.get_dummy_value()

    return types.void(types.int64), generate


_compiled: Callable[[Function], Function] = njit(fastmath=True, boundscheck=False, error_model="numpy")


@_compiled
def _prefetch(address: int, bytes: int) -> None:
    """Factors are short: they would be over before the processor has seen that they are read in order."""
    for offset in range(0, bytes, 64):
        _prefetch_line(address + offset)


@_compiled
def _shrink(x: Any, a: Any, shrunk: Any, a_at: int, b_at: int) -> None:
    """``shrunk[rank] = a[rank, inputs] x[inputs]``; ``b`` comes next."""
    ranks, inputs = a.shape
    for rank in range(0, ranks, 4):
        _prefetch(a_at + (rank + 4) * inputs * 2 if rank + 4 < ranks else b_at, 8 * inputs)
        s0, s1, s2, s3 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for i in range(inputs):
            s0 += x[i] * _float(a[rank, i])
            s1 += x[i] * _float(a[rank + 1, i])
            s2 += x[i] * _float(a[rank + 2, i])
            s3 += x[i] * _float(a[rank + 3, i])
        shrunk[rank], shrunk[rank + 1], shrunk[rank + 2], shrunk[rank + 3] = s0, s1, s2, s3


@_compiled
def _shrink_tile(x0: Any, x1: Any, x2: Any, x3: Any, a: Any, shrunk: Any) -> None:
    """The same of four rows: ``shrunk[4, rank]``."""
    ranks, inputs = a.shape
    for rank in range(ranks):
        s0, s1, s2, s3 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for i in range(inputs):
            factor = _float(a[rank, i])
            s0 += x0[i] * factor
            s1 += x1[i] * factor
            s2 += x2[i] * factor
            s3 += x3[i] * factor
        shrunk[0, rank], shrunk[1, rank], shrunk[2, rank], shrunk[3, rank] = s0, s1, s2, s3


@_compiled
def _expand(y: Any, shrunk: Any, b: Any, scale: float, b_at: int) -> None:
    """``y[outputs] += scale * shrunk[rank] b[rank, outputs]``."""
    ranks, outputs = b.shape
    for r in range(0, ranks, STEP):
        # Ranks that an adapter was filled up with are zeros.
        if not shrunk[r : r + STEP].any():
            continue
        if r + STEP < ranks:
            _prefetch(b_at + (r + STEP) * outputs * 2, STEP * outputs * 2)
        s0, s1, s2, s3 = scale * shrunk[r], scale * shrunk[r + 1], scale * shrunk[r + 2], scale * shrunk[r + 3]
        s4, s5, s6, s7 = scale * shrunk[r + 4], scale * shrunk[r + 5], scale * shrunk[r + 6], scale * shrunk[r + 7]
        for o in range(outputs):
            y[o] += (
                s0 * _float(b[r, o])
                + s1 * _float(b[r + 1, o])
                + s2 * _float(b[r + 2, o])
                + s3 * _float(b[r + 3, o])
                + s4 * _float(b[r + 4, o])
                + s5 * _float(b[r + 5, o])
                + s6 * _float(b[r + 6, o])
                + s7 * _float(b[r + 7, o])
            )


@_compiled
def _four(shrunk: Any, r: int, scale: float) -> Any:
    return scale * shrunk[r], scale * shrunk[r + 1], scale * shrunk[r + 2], scale * shrunk[r + 3]


@_compiled
def _expand_tile(y0: Any, y1: Any, y2: Any, y3: Any, shrunk: Any, b: Any, scale: float) -> None:
    """The same of four rows: ``shrunk[4, rank]``."""
    ranks, outputs = b.shape
    for r in range(0, ranks, 4):
        s00, s01, s02, s03 = _four(shrunk[0], r, scale)
        s10, s11, s12, s13 = _four(shrunk[1], r, scale)
        s20, s21, s22, s23 = _four(shrunk[2], r, scale)
        s30, s31, s32, s33 = _four(shrunk[3], r, scale)
        for o in range(outputs):
            f0, f1, f2, f3 = _float(b[r, o]), _float(b[r + 1, o]), _float(b[r + 2, o]), _float(b[r + 3, o])
            y0[o] += s00 * f0 + s01 * f1 + s02 * f2 + s03 * f3
            y1[o] += s10 * f0 + s11 * f1 + s12 * f2 + s13 * f3
            y2[o] += s20 * f0 + s21 * f1 + s22 * f2 + s23 * f3
            y3[o] += s30 * f0 + s31 * f1 + s32 * f2 + s33 * f3


@_compiled
def _row(address: int, row: int, stride: int, length: int) -> Any:
    return carray(_pointer(address + 4 * row * stride), length, np.float32)


@_compiled
def _narrow_row(address: int, row: int, stride: int, length: int) -> Any:
    return carray(_pointer(address + 2 * row * stride), length, np.uint16)


@_compiled
def _widen(narrow: Any, wide: Any) -> None:
    for i in range(len(narrow)):
        wide[i] = _float(narrow[i])


@_compiled
def _narrow(wide: Any, narrow: Any) -> None:
    for i in range(len(narrow)):
        narrow[i] = _bits(wide[i])


@cfunc(types.void(types.CPointer(from_dtype(np.dtype(KernelArguments)))), cache=True)  # type: ignore[untyped-decorator]
def _work(calls: Any) -> None:
    """What each thread does: take a tile, until there is none."""
    call = carray(calls, 1)[0]
    bounds = carray(_pointer(call.bounds), call.tiles + 1, np.int64)
    count = bounds[call.tiles]
    rows, slots = carray(_pointer(call.rows), count, np.int64), carray(_pointer(call.slots), count, np.int64)
    shape = (call.parts, call.slots_count)
    ranks = carray(_pointer(call.ranks), shape, np.int64)
    of_a, of_b = carray(_pointer(call.a), shape, np.int64), carray(_pointer(call.b), shape, np.int64)
    shrunk = np.empty((TILE, call.largest), np.float32)
    wide, largest = np.empty((TILE, call.inputs if call.narrow else 0), np.float32), 0
    for part in range(call.parts):
        largest = max(largest, call.outputs[part])
    sums = np.empty((TILE, largest if call.narrow else 0), np.float32)
    tile = _take(call.address)
    while tile < call.tiles:
        first, size, slot, begin = bounds[tile], bounds[tile + 1] - bounds[tile], slots[bounds[tile]], 0
        if call.narrow:
            for i in range(size):
                _widen(_narrow_row(call.x, rows[first + i], call.x_stride, call.inputs), wide[i])
        for part in range(call.parts):
            outputs, rank = call.outputs[part], ranks[part, slot]
            if rank == 0:
                begin += outputs
                continue
            a_at, b_at = of_a[part, slot], of_b[part, slot]
            a = carray(_pointer(a_at), (rank, call.inputs), np.uint16)
            b = carray(_pointer(b_at), (rank, outputs), np.uint16)
            if call.narrow and size == TILE:
                _shrink_tile(wide[0], wide[1], wide[2], wide[3], a, shrunk)
            elif size == TILE:
                _shrink_tile(
                    _row(call.x, rows[first], call.x_stride, call.inputs),
                    _row(call.x, rows[first + 1], call.x_stride, call.inputs),
                    _row(call.x, rows[first + 2], call.x_stride, call.inputs),
                    _row(call.x, rows[first + 3], call.x_stride, call.inputs),
                    a,
                    shrunk,
                )
            else:
                for i in range(size):
                    x = wide[i] if call.narrow else _row(call.x, rows[first + i], call.x_stride, call.inputs)
                    _shrink(x, a, shrunk[i], a_at, b_at)
            if call.narrow:
                y_at = call.y + 2 * begin
                for i in range(size):
                    _widen(_narrow_row(y_at, rows[first + i], call.y_stride, outputs), sums[i, :outputs])
                if size == TILE:
                    y0, y1, y2, y3 = sums[0, :outputs], sums[1, :outputs], sums[2, :outputs], sums[3, :outputs]
                    _expand_tile(y0, y1, y2, y3, shrunk, b, call.scale)
                else:
                    for i in range(size):
                        _expand(sums[i, :outputs], shrunk[i], b, call.scale, b_at)
                for i in range(size):
                    _narrow(sums[i, :outputs], _narrow_row(y_at, rows[first + i], call.y_stride, outputs))
            else:
                y_at = call.y + 4 * begin
                if size == TILE:
                    _expand_tile(
                        _row(y_at, rows[first], call.y_stride, outputs),
                        _row(y_at, rows[first + 1], call.y_stride, outputs),
                        _row(y_at, rows[first + 2], call.y_stride, outputs),
                        _row(y_at, rows[first + 3], call.y_stride, outputs),
                        shrunk,
                        b,
                        call.scale,
                    )
                else:
                    for i in range(size):
                        _expand(_row(y_at, rows[first + i], call.y_stride, outputs), shrunk[i], b, call.scale, b_at)
            begin += outputs
        tile = _take(call.address)


_parallel = openmp_parallel(ctypes.PyDLL)
"""The interpreter's lock is kept: whoever took it meanwhile would keep it for longer than a call lasts."""


@dataclass(frozen=True)
class Tiles:
    """Which rows of a batch have which slot, sorted by slot, in tiles of at most ``TILE`` rows of one slot.

    ``rows`` and ``slots`` are ``[R]``, ``bounds`` ``[tiles + 1]``, all int64.
    """

    rows: NDArray[np.int64]
    slots: NDArray[np.int64]
    bounds: NDArray[np.int64]


def tiles(slots: NDArray[np.int64]) -> Tiles | None:
    """Of each row's slot, or -1; None if no row has any."""
    rows = np.argsort(slots, kind="stable")
    rows = rows[np.searchsorted(slots[rows], 0) :]
    if not rows.size:
        return None
    found, index = slots[rows], np.arange(rows.size)
    begins = np.flatnonzero(np.diff(found, prepend=-1))  # of each slot
    lengths = np.diff(begins, append=rows.size)
    within = index - np.repeat(begins, lengths)
    return Tiles(rows, found, np.append(np.flatnonzero(within % TILE == 0), rows.size))


Factors = tuple[Tensor, Tensor]
"""Of one layer: bfloat16 ``a`` ``[rank, inputs]`` and ``b`` ``[rank, outputs]``, each in one piece.

The rank is divisible by ``STEP``.
"""


def factors(a: Tensor, b: Tensor) -> Factors:
    """From PEFT's ``a`` ``[rank, inputs]`` and ``b`` ``[outputs, rank]``; nothing is copied that lies so already."""
    missing = -len(a) % STEP
    if missing:
        a, b = pad(a, (0, 0, 0, missing)), pad(b, (0, missing))
    return a.bfloat16().contiguous(), b.t().bfloat16().contiguous()


class Layer:
    """The factors of one linear layer, or of several that have the same input, in all slots.

    A slot is a pointer to where an adapter lies: giving it to another one copies nothing.
    """

    def __init__(self, slots: int, inputs: int, outputs: Sequence[int]) -> None:
        """``outputs`` of each of the layers that have the same ``inputs``."""
        if len(outputs) > PARTS:
            raise ValueError(f"no kernel for {len(outputs)} layers with one input")
        self.inputs, self.outputs = inputs, tuple(outputs)
        self._ranks, self._a, self._b = (np.zeros((len(outputs), slots), np.int64) for _ in range(3))
        self._held: list[tuple[Tensor, ...]] = [()] * slots
        self._call = call = KernelArguments(inputs=inputs, parts=len(outputs), slots_count=slots)
        call.address = ctypes.addressof(call)
        call.outputs[: len(outputs)] = self.outputs
        call.ranks, call.a, call.b = (table.ctypes.data for table in (self._ranks, self._a, self._b))

    def point(self, slot: int, factors: Sequence[Factors | None]) -> None:
        """From now on, ``slot`` has the adapter with these factors of each part; None leaves a part alone."""
        held: list[Tensor] = []
        for part, each in enumerate(factors):
            if each is None:
                self._ranks[part, slot] = 0
                continue
            a, b = each
            self._ranks[part, slot] = len(a)
            self._a[part, slot], self._b[part, slot] = a.data_ptr(), b.data_ptr()
            held += each
        self._held[slot] = tuple(held)
        self._call.largest = int(self._ranks.max())

    def add(self, y: Tensor, x: Tensor, scale: float, tiles: Tiles) -> None:
        """y += scale * x a^T b^T of each row's own slot, in place; of several layers, side by side.

        ``y`` is ``[T, outputs]``, ``x`` ``[T, inputs]``, both float32 or both bfloat16, with whole rows.
        """
        if not (x.dtype == y.dtype in (torch.float32, torch.bfloat16) and x.stride(1) == y.stride(1) == 1):
            raise ValueError(f"{x.dtype} {x.stride()} and {y.dtype} {y.stride()}")
        call = self._call
        call.narrow = x.dtype == torch.bfloat16
        call.taken, call.tiles, call.scale = 0, len(tiles.bounds) - 1, scale
        call.bounds, call.rows, call.slots = (each.ctypes.data for each in (tiles.bounds, tiles.rows, tiles.slots))
        call.x, call.x_stride, call.y, call.y_stride = x.data_ptr(), x.stride(0), y.data_ptr(), y.stride(0)
        if _parallel is None:
            _work.ctypes(ctypes.byref(call))
        else:
            _parallel(_work.address, call.address, min(torch.get_num_threads(), call.tiles), 0)
