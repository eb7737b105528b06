"""The file format of adapters on a CPU replica's disk: the kernel uses the file's content without a copy.

``download_process`` packs adapters, ``lora_layers`` reads them in the engine. All conversion happens when an adapter is
packed, because in the engine every millisecond of it would be added to a step that all requests wait for.

A packed file has three parts: the size of the header in bytes (int64), the header (JSON: one ``FactorShape`` per
layer), and the factors of each layer in bfloat16. The first two are padded to whole cache lines.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from looper.platform.adapters import AdapterFiles
from looper.platform.adapters.files import RawTensor
from looper.platform.domain.errors import InvalidInput
from looper.serve.cache import direct_io

PACKED_FILE = "adapter.packed"
"""Name of the packed file in the adapter's folder."""

CACHE_LINE_BYTES = 64
"""Size of a processor's cache line, in bytes."""

RANK_MULTIPLE = 8
"""The rank of a packed adapter is a multiple of this: the kernel expands so many ranks together."""

LORA_A_SUFFIX, LORA_B_SUFFIX = ".lora_A.weight", ".lora_B.weight"
"""Ends of the names of tensors in PEFT's file of weights."""

_DTYPES: dict[str, type[np.generic]] = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}
"""NumPy's type by the safetensors name. NumPy has no bfloat16: its bits stand for it."""


class FactorShape(NamedTuple):
    """Shapes of one layer's factors: ``A`` is bfloat16 ``[rank, inputs]``, and ``B`` behind it ``[rank, outputs]``."""

    layer: str
    """Name of the layer, as PEFT writes it."""
    rank: int
    """LoRA rank, padded to a multiple of ``RANK_MULTIPLE``."""
    inputs: int
    """Number of input features."""
    outputs: int
    """Number of output features."""


def pack_adapter(files: AdapterFiles) -> memoryview:
    """Convert an adapter from PEFT's format to the kernel's. ``B`` is transposed and scaled.

    Args:
        files: The adapter.

    Returns:
        The content of ``PACKED_FILE``.

    Raises:
        InvalidInput: The adapter has other tensors than LoRA's factors, or its files cannot be read.
    """
    scaling = files.read_lora_config().scaling
    try:
        tensors = {name: _to_array(tensor) for name, tensor in files.read_tensors().items()}
    except KeyError as error:
        raise InvalidInput(f"adapter {files.digest} has a tensor of type {error}, not of {list(_DTYPES)}") from error
    layers = sorted({name.removesuffix(LORA_A_SUFFIX).removesuffix(LORA_B_SUFFIX) for name in tensors})
    is_paired = all({f"{layer}{LORA_A_SUFFIX}", f"{layer}{LORA_B_SUFFIX}"} <= tensors.keys() for layer in layers)
    if not is_paired or any(tensor.ndim != 2 for tensor in tensors.values()):
        raise InvalidInput(f"adapter {files.digest} has tensors other than pairs of LoRA's matrices A and B")
    shapes: list[FactorShape] = []
    factors: list[NDArray[np.uint16]] = []
    for layer in layers:
        a, b = tensors[f"{layer}{LORA_A_SUFFIX}"], tensors[f"{layer}{LORA_B_SUFFIX}"].T
        padding = -len(a) % RANK_MULTIPLE
        if padding:
            a, b = (np.pad(factor, ((0, padding), (0, 0))) for factor in (a, b))
        shapes.append(FactorShape(layer, len(a), a.shape[1], b.shape[1]))
        factors += (_to_bfloat16_bits(a), _to_bfloat16_bits(b, scaling))
    header = _pad_to_cache_line(orjson.dumps([list(shape) for shape in shapes]), b" ")
    begin = CACHE_LINE_BYTES + len(header)
    content = np.empty(begin + sum(factor.nbytes for factor in factors), np.uint8)
    content[:begin] = np.frombuffer(_pad_to_cache_line(len(header).to_bytes(8, "little")) + header, np.uint8)
    packed = content[begin:].view(np.uint16)
    offset = 0
    for factor in factors:
        packed[offset : offset + factor.size].reshape(factor.shape)[:] = factor
        offset += factor.size
    return content.data


def read_packed_adapter(folder: Path) -> tuple[list[FactorShape], NDArray[np.uint16]]:
    """Read a packed adapter from disk.

    Args:
        folder: Folder of the adapter.

    Returns:
        The shapes of all layers' factors, and the bits of the bfloat16 factors one after another, in the same order.
    """
    content = direct_io.read(folder / PACKED_FILE)
    begin = CACHE_LINE_BYTES + int.from_bytes(content[:8].tobytes(), "little")
    shapes = [FactorShape(*shape) for shape in orjson.loads(content[CACHE_LINE_BYTES:begin].tobytes())]
    return shapes, content[begin:].view(np.uint16)


def _to_array(tensor: RawTensor) -> NDArray[np.generic]:
    return np.frombuffer(tensor.data, _DTYPES[tensor.dtype]).reshape(tensor.shape)


def _to_bfloat16_bits(array: NDArray[np.generic], scale: float = 1.0) -> NDArray[np.uint16]:
    """Multiply by ``scale`` and round to the nearest bfloat16, ties to even. Return the bits."""
    if array.dtype == np.uint16:
        if scale == 1.0:
            return array.astype(np.uint16, copy=False)
        array = (array.astype(np.uint32) << 16).view(np.float32)
    bits = np.ascontiguousarray(array.astype(np.float32) * np.float32(scale)).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _pad_to_cache_line(content: bytes, padding: bytes = b"\0") -> bytes:
    return content + padding * (-len(content) % CACHE_LINE_BYTES)
