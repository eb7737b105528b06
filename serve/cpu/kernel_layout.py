"""Adapters on disk as the kernel of a CPU engine reads them: what is read is used where it lies.

The loader's process does all that there is to compute. In the engine, each millisecond of it would be taken from the
step that everyone waits for.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from looper.platform.adapters import AdapterFiles
from looper.platform.domain.errors import InvalidInput
from looper.serve.cache import direct_io as direct

PACKED_FILE = "adapter.laid_out"
"""The file: the length of a header, the header, both in whole lines, and the factors of each layer."""

LINE = 64
"""Bytes that a processor reads at once."""

STEP = 8
"""Ranks that the kernel expands together: adapters are filled up to a multiple."""

A, B = ".lora_A.weight", ".lora_B.weight"


class Shape(NamedTuple):
    """Of one layer's factors: bfloat16 ``[rank, inputs]``, and behind it ``[rank, outputs]``."""

    layer: str
    """As PEFT names it."""
    rank: int
    inputs: int
    outputs: int


class _PackedLoraConfig(BaseModel):
    """Of PEFT's, what scales an adapter."""

    r: int
    lora_alpha: float
    use_rslora: bool = False

    @property
    def scale(self) -> float:
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)


def pack_adapter(files: AdapterFiles) -> memoryview:
    """The content of ``PACKED_FILE``. Raises InvalidInput if the adapter is not of LoRA's factors alone."""
    try:
        scale = _PackedLoraConfig.model_validate_json(files.config).scale
        tensors = _tensors(files.weights)
    except (ValidationError, KeyError, ValueError, TypeError) as error:
        raise InvalidInput(f"adapter {files.digest} is not what PEFT writes: {error}") from error
    layers = sorted({name.removesuffix(A).removesuffix(B) for name in tensors})
    if any(not {f"{layer}{A}", f"{layer}{B}"} <= tensors.keys() for layer in layers):
        raise InvalidInput(f"adapter {files.digest} changes more than LoRA's factors, or has one without the other")
    shapes: list[Shape] = []
    pieces: list[NDArray[np.uint16]] = []
    for layer in layers:
        a, b = tensors[f"{layer}{A}"], tensors[f"{layer}{B}"].T
        missing = -len(a) % STEP
        if missing:
            a, b = (np.pad(each, ((0, missing), (0, 0))) for each in (a, b))
        shapes.append(Shape(layer, len(a), a.shape[1], b.shape[1]))
        pieces += (_bfloat16(a), _bfloat16(b, scale))
    header = _padded(orjson.dumps([list(each) for each in shapes]), b" ")
    begin = LINE + len(header)
    content = np.empty(begin + sum(piece.nbytes for piece in pieces), np.uint8)
    content[:begin] = np.frombuffer(_padded(len(header).to_bytes(8, "little")) + header, np.uint8)
    factors = content[begin:].view(np.uint16)
    at = 0
    for piece in pieces:
        factors[at : at + piece.size].reshape(piece.shape)[:] = piece
        at += piece.size
    return content.data


def read_packed_adapter(folder: Path) -> tuple[list[Shape], NDArray[np.uint16]]:
    """An adapter's shapes and, one behind the other as they are laid out, its factors' bits."""
    content = direct.read(folder / PACKED_FILE)
    begin = LINE + int.from_bytes(content[:8].tobytes(), "little")
    shapes = [Shape(*each) for each in orjson.loads(content[LINE:begin].tobytes())]
    return shapes, content[begin:].view(np.uint16)


def _tensors(weights: bytes) -> Mapping[str, NDArray[np.generic]]:
    """Of a safetensors file; bfloat16 as its bits."""
    kinds = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}
    begin = 8 + int.from_bytes(weights[:8], "little")
    header = orjson.loads(weights[8:begin])
    return {
        name: np.frombuffer(
            weights, kinds[entry["dtype"]], math.prod(entry["shape"]), begin + entry["data_offsets"][0]
        ).reshape(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _bfloat16(numbers: NDArray[np.generic], scale: float = 1.0) -> NDArray[np.uint16]:
    """Their bits, ``scale`` times, rounded to the nearest, and to even between two."""
    if numbers.dtype == np.uint16:
        if scale == 1.0:
            return numbers.astype(np.uint16, copy=False)
        numbers = (numbers.astype(np.uint32) << 16).view(np.float32)
    bits = np.ascontiguousarray(numbers.astype(np.float32) * np.float32(scale)).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _padded(content: bytes, by: bytes = b"\0") -> bytes:
    return content + by * (-len(content) % LINE)
