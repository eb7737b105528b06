"""The LoRA kernel of CPU engines, compiled by Numba: one call adds the updates of a batch that uses many adapters.

``lora_slots`` fills ``KernelArguments`` and runs ``run_thread`` on PyTorch's OpenMP threads. Each thread takes tiles of
rows that have the same adapter until there are none left. An adapter is read once per tile, from where it was loaded.
Factors are bfloat16, as in the adapters' files. Sums are float32, and a row of bfloat16 outputs is rounded once.

All compiled functions stay in this module: Numba's cache notices a change in the file of the cached function only.
"""

import ctypes
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, from_dtype, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from looper.serve.cpu.kernel_layout import RANK_MULTIPLE

TILE_ROWS = 4
"""Maximum number of rows in a tile. A factor is converted to float32 once for all rows of a full tile."""

MAX_SLICES = 3
"""Maximum number of layers that vLLM merges into one: q, k and v."""

Function = TypeVar("Function", bound=Callable[..., Any])


class KernelArguments(ctypes.Structure):
    """What the threads of one call share. Pointers are addresses."""

    _fields_ = (
        ("next_tile", ctypes.c_int64),  # first tile that no thread has taken
        ("address", ctypes.c_int64),  # address of this structure, and so of ``next_tile``
        ("tiles", ctypes.c_int64),  # number of tiles
        ("bounds", ctypes.c_int64),  # pointer to int64 [tiles + 1]: a tile ends at the sorted row where the next begins
        ("rows", ctypes.c_int64),  # pointer to int64, sorted by slot: index of each row in x and y
        ("slots", ctypes.c_int64),  # pointer to int64: slot of each row in ``rows``
        ("x", ctypes.c_int64),  # pointer to [T, inputs]
        ("y", ctypes.c_int64),  # pointer to [T, sum of outputs, or more]
        ("is_bfloat16", ctypes.c_int64),  # 1: x and y are bfloat16; 0: they are float32
        ("x_stride", ctypes.c_int64),  # in elements
        ("y_stride", ctypes.c_int64),  # in elements
        ("scale", ctypes.c_float),
        ("inputs", ctypes.c_int64),  # number of input features
        ("num_slices", ctypes.c_int64),
        ("num_slots", ctypes.c_int64),
        ("outputs", ctypes.c_int64 * MAX_SLICES),  # number of output features of each slice
        ("max_rank", ctypes.c_int64),  # of all slots
        ("ranks", ctypes.c_int64),  # pointer to int64 [slices, slots]; 0: the adapter does not change the slice
        ("a", ctypes.c_int64),  # pointer to int64 [slices, slots]: pointers to bfloat16 [rank, inputs]
        ("b", ctypes.c_int64),  # pointer to int64 [slices, slots]: pointers to bfloat16 [rank, outputs]
    )


@intrinsic  # type: ignore[untyped-decorator]
def _to_pointer(context: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _to_float32(context: Any, bits: Any) -> Any:
    """Convert the bits of a bfloat16 to float32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = builder.zext(arguments[0], context.get_value_type(types.uint32))
        shifted = builder.shl(wide, context.get_constant(types.uint32, 16))
        return builder.bitcast(shifted, context.get_value_type(types.float32))

    return types.float32(types.uint16), generate


@intrinsic  # type: ignore[untyped-decorator]
def _to_bfloat16_bits(context: Any, number: Any) -> Any:
    """Round a float32 to the nearest bfloat16, ties to even. Return its bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = context.get_value_type(types.uint32)
        bits = builder.bitcast(arguments[0], kind)
        odd = builder.and_(builder.lshr(bits, kind(16)), kind(1))
        rounded = builder.add(bits, builder.add(kind(0x7FFF), odd))
        return builder.trunc(builder.lshr(rounded, kind(16)), context.get_value_type(types.uint16))

    return types.uint16(types.float32), generate


@intrinsic  # type: ignore[untyped-decorator]
def _fetch_and_increment(context: Any, counter_address: Any) -> Any:
    """Increment the int64 at an address atomically. Return its value from before."""

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
def _prefetch(address: int, num_bytes: int) -> None:
    """Prefetch a factor. It is so short that the hardware prefetcher would detect the pattern too late."""
    for offset in range(0, num_bytes, 64):
        _prefetch_line(address + offset)


@_compiled
def _shrink(x: Any, a: Any, shrunk: Any, a_address: int, b_address: int) -> None:
    """Compute ``shrunk[rank] = a[rank, inputs] x[inputs]`` and prefetch ``b``, which is read next."""
    ranks, inputs = a.shape
    for rank in range(0, ranks, 4):
        _prefetch(a_address + (rank + 4) * inputs * 2 if rank + 4 < ranks else b_address, 8 * inputs)
        s0, s1, s2, s3 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for i in range(inputs):
            s0 += x[i] * _to_float32(a[rank, i])
            s1 += x[i] * _to_float32(a[rank + 1, i])
            s2 += x[i] * _to_float32(a[rank + 2, i])
            s3 += x[i] * _to_float32(a[rank + 3, i])
        shrunk[rank], shrunk[rank + 1], shrunk[rank + 2], shrunk[rank + 3] = s0, s1, s2, s3


@_compiled
def _shrink_tile(x0: Any, x1: Any, x2: Any, x3: Any, a: Any, shrunk: Any) -> None:
    """Do the same for the four rows of a full tile: ``shrunk[4, rank]``."""
    ranks, inputs = a.shape
    for rank in range(ranks):
        s0, s1, s2, s3 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for i in range(inputs):
            factor = _to_float32(a[rank, i])
            s0 += x0[i] * factor
            s1 += x1[i] * factor
            s2 += x2[i] * factor
            s3 += x3[i] * factor
        shrunk[0, rank], shrunk[1, rank], shrunk[2, rank], shrunk[3, rank] = s0, s1, s2, s3


@_compiled
def _expand(y: Any, shrunk: Any, b: Any, scale: float, b_address: int) -> None:
    """Compute ``y[outputs] += scale * shrunk[rank] b[rank, outputs]``."""
    ranks, outputs = b.shape
    for r in range(0, ranks, RANK_MULTIPLE):
        # The ranks that an adapter was padded with are zeros.
        if not shrunk[r : r + RANK_MULTIPLE].any():
            continue
        if r + RANK_MULTIPLE < ranks:
            _prefetch(b_address + (r + RANK_MULTIPLE) * outputs * 2, RANK_MULTIPLE * outputs * 2)
        s0, s1, s2, s3 = _scale_four(shrunk, r, scale)
        s4, s5, s6, s7 = _scale_four(shrunk, r + 4, scale)
        for o in range(outputs):
            y[o] += (
                s0 * _to_float32(b[r, o])
                + s1 * _to_float32(b[r + 1, o])
                + s2 * _to_float32(b[r + 2, o])
                + s3 * _to_float32(b[r + 3, o])
                + s4 * _to_float32(b[r + 4, o])
                + s5 * _to_float32(b[r + 5, o])
                + s6 * _to_float32(b[r + 6, o])
                + s7 * _to_float32(b[r + 7, o])
            )


@_compiled
def _scale_four(shrunk: Any, r: int, scale: float) -> Any:
    return scale * shrunk[r], scale * shrunk[r + 1], scale * shrunk[r + 2], scale * shrunk[r + 3]


@_compiled
def _expand_tile(y0: Any, y1: Any, y2: Any, y3: Any, shrunk: Any, b: Any, scale: float) -> None:
    """Do the same for the four rows of a full tile: ``shrunk[4, rank]``."""
    ranks, outputs = b.shape
    for r in range(0, ranks, 4):
        s00, s01, s02, s03 = _scale_four(shrunk[0], r, scale)
        s10, s11, s12, s13 = _scale_four(shrunk[1], r, scale)
        s20, s21, s22, s23 = _scale_four(shrunk[2], r, scale)
        s30, s31, s32, s33 = _scale_four(shrunk[3], r, scale)
        for o in range(outputs):
            f0, f1 = _to_float32(b[r, o]), _to_float32(b[r + 1, o])
            f2, f3 = _to_float32(b[r + 2, o]), _to_float32(b[r + 3, o])
            y0[o] += s00 * f0 + s01 * f1 + s02 * f2 + s03 * f3
            y1[o] += s10 * f0 + s11 * f1 + s12 * f2 + s13 * f3
            y2[o] += s20 * f0 + s21 * f1 + s22 * f2 + s23 * f3
            y3[o] += s30 * f0 + s31 * f1 + s32 * f2 + s33 * f3


@_compiled
def _float32_row(address: int, row: int, stride: int, length: int) -> Any:
    return carray(_to_pointer(address + 4 * row * stride), length, np.float32)


@_compiled
def _bfloat16_row(address: int, row: int, stride: int, length: int) -> Any:
    return carray(_to_pointer(address + 2 * row * stride), length, np.uint16)


@_compiled
def _widen(bfloat16: Any, float32: Any) -> None:
    for i in range(len(bfloat16)):
        float32[i] = _to_float32(bfloat16[i])


@_compiled
def _narrow(float32: Any, bfloat16: Any) -> None:
    for i in range(len(float32)):
        bfloat16[i] = _to_bfloat16_bits(float32[i])


@cfunc(types.void(types.CPointer(from_dtype(np.dtype(KernelArguments)))), cache=True)  # type: ignore[untyped-decorator]
def run_thread(arguments: Any) -> None:
    """Process tiles until none is left. Every thread of a call runs this.

    Args:
        arguments: Pointer to the ``KernelArguments`` of the call.
    """
    call = carray(arguments, 1)[0]
    bounds = carray(_to_pointer(call.bounds), call.tiles + 1, np.int64)
    count = bounds[call.tiles]
    rows, slots = carray(_to_pointer(call.rows), count, np.int64), carray(_to_pointer(call.slots), count, np.int64)
    shape = (call.num_slices, call.num_slots)
    ranks = carray(_to_pointer(call.ranks), shape, np.int64)
    a_addresses = carray(_to_pointer(call.a), shape, np.int64)
    b_addresses = carray(_to_pointer(call.b), shape, np.int64)
    shrunk = np.empty((TILE_ROWS, call.max_rank), np.float32)
    # Rows in bfloat16 are converted to float32, which needs buffers.
    inputs = np.empty((TILE_ROWS, call.inputs if call.is_bfloat16 else 0), np.float32)
    max_outputs = 0
    for part in range(call.num_slices):
        max_outputs = max(max_outputs, call.outputs[part])
    sums = np.empty((TILE_ROWS, max_outputs if call.is_bfloat16 else 0), np.float32)
    tile = _fetch_and_increment(call.address)
    while tile < call.tiles:
        first, size, slot, begin = bounds[tile], bounds[tile + 1] - bounds[tile], slots[bounds[tile]], 0
        if call.is_bfloat16:
            for i in range(size):
                _widen(_bfloat16_row(call.x, rows[first + i], call.x_stride, call.inputs), inputs[i])
        for part in range(call.num_slices):
            outputs, rank = call.outputs[part], ranks[part, slot]
            if rank == 0:
                begin += outputs
                continue
            a_address, b_address = a_addresses[part, slot], b_addresses[part, slot]
            a = carray(_to_pointer(a_address), (rank, call.inputs), np.uint16)
            b = carray(_to_pointer(b_address), (rank, outputs), np.uint16)
            if call.is_bfloat16 and size == TILE_ROWS:
                _shrink_tile(inputs[0], inputs[1], inputs[2], inputs[3], a, shrunk)
            elif size == TILE_ROWS:
                _shrink_tile(
                    _float32_row(call.x, rows[first], call.x_stride, call.inputs),
                    _float32_row(call.x, rows[first + 1], call.x_stride, call.inputs),
                    _float32_row(call.x, rows[first + 2], call.x_stride, call.inputs),
                    _float32_row(call.x, rows[first + 3], call.x_stride, call.inputs),
                    a,
                    shrunk,
                )
            else:
                for i in range(size):
                    row = _float32_row(call.x, rows[first + i], call.x_stride, call.inputs)
                    x = inputs[i] if call.is_bfloat16 else row
                    _shrink(x, a, shrunk[i], a_address, b_address)
            if call.is_bfloat16:
                y_address = call.y + 2 * begin
                for i in range(size):
                    _widen(_bfloat16_row(y_address, rows[first + i], call.y_stride, outputs), sums[i, :outputs])
                if size == TILE_ROWS:
                    y0, y1, y2, y3 = sums[0, :outputs], sums[1, :outputs], sums[2, :outputs], sums[3, :outputs]
                    _expand_tile(y0, y1, y2, y3, shrunk, b, call.scale)
                else:
                    for i in range(size):
                        _expand(sums[i, :outputs], shrunk[i], b, call.scale, b_address)
                for i in range(size):
                    _narrow(sums[i, :outputs], _bfloat16_row(y_address, rows[first + i], call.y_stride, outputs))
            else:
                y_address = call.y + 4 * begin
                if size == TILE_ROWS:
                    _expand_tile(
                        _float32_row(y_address, rows[first], call.y_stride, outputs),
                        _float32_row(y_address, rows[first + 1], call.y_stride, outputs),
                        _float32_row(y_address, rows[first + 2], call.y_stride, outputs),
                        _float32_row(y_address, rows[first + 3], call.y_stride, outputs),
                        shrunk,
                        b,
                        call.scale,
                    )
                else:
                    for i in range(size):
                        y = _float32_row(y_address, rows[first + i], call.y_stride, outputs)
                        _expand(y, shrunk[i], b, call.scale, b_address)
            begin += outputs
        tile = _fetch_and_increment(call.address)
