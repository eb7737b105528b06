"""LoRA in vLLM's CPU engine by a kernel of ours, where vLLM gathers each token's factors first.

vLLM's own (0.29) also takes the last slot's adapter for a token that has none, whenever the batch holds one that has.
Here it gets none. Where vLLM copies an adapter into its slot, in the step loop, a slot here points to the adapter.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.lora.layers import BaseLayerWithLoRA, LoRAMapping
from vllm.lora.lora_model import LoRAModel
from vllm.lora.model_manager import LRUCacheLoRAModelManager
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from looper.serve.cpu.kernel_layout import read_packed_adapter
from looper.serve.cpu.lora_kernel import Factors, Layer, Tiles, factors, tiles


class TiledPunicaWrapper(PunicaWrapperCPU):  # type: ignore[misc]
    """What vLLM's LoRA layers call; see the module. Slots are counted from 0, and -1 is a token without an adapter."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._layers: dict[int, Layer] = {}
        self._tokens: Tiles | None = None

    def update_metadata(
        self, mapping: LoRAMapping, lora_index_to_id: list[int | None], max_loras: int, vocab_size: int, **kwargs: Any
    ) -> None:
        super().update_metadata(mapping, lora_index_to_id, max_loras, vocab_size, **kwargs)
        self._tokens = tiles(self.token_lora_indices.numpy())

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
        """Add to each slice of ``y`` ``[T, sum of output_slices]`` its LoRA of ``x`` ``[T, in]``.

        Rows beyond those of the batch have no adapter: the engine fills batches up.
        """
        if self._tokens is not None:
            layer = self.layer(lora_a_stacked, lora_b_stacked)
            layer.add(y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1]), scale, self._tokens)

    def layer(self, a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> Layer:
        """What takes the place of vLLM's slots ``a`` and ``b`` of a layer, which stay as empty as they are."""
        key = a[0].data_ptr()  # vLLM's layer holds it, and so it stays
        if key not in self._layers:
            self._layers[key] = Layer(a[0].shape[0], a[0].shape[3], [each.shape[2] for each in b])
        return self._layers[key]


def point_slots(modules: Mapping[str, BaseLayerWithLoRA]) -> None:
    """Have vLLM's layers take adapters by pointing to them."""
    for module in modules.values():
        layer = _layer(module)

        def set_lora(slot: int, a: Any, b: Any, layer: Layer = layer) -> None:
            layer.point(slot, a if b is None else _of_parts(a, b, layer))

        def reset_lora(slot: int, layer: Layer = layer) -> None:
            layer.point(slot, [None] * len(layer.outputs))

        module.set_lora, module.reset_lora = set_lora, reset_lora


@dataclass(frozen=True)
class PackedModuleFactors:
    """What an adapter changes of a module: factors of each part, or None. In place of vLLM's tensors."""

    lora_a: list[Factors | None]
    lora_b: None = None


class PackedAdapter(LoRAModel):  # type: ignore[misc]
    """An adapter that slots can point to."""


class SlotPointerLoRAManager(LRUCacheLoRAModelManager):  # type: ignore[misc]
    """vLLM's manager of the slots."""

    def _create_merged_loras_inplace(self, lora_model: LoRAModel) -> None:
        """Nothing for an adapter that is laid out: vLLM calls this in the step loop."""
        if not isinstance(lora_model, PackedAdapter):
            super()._create_merged_loras_inplace(lora_model)


def read_packed_lora(
    folder: Path,
    number: int,
    modules: Mapping[str, BaseLayerWithLoRA],
    packed: Mapping[str, Sequence[str]],
    name_of: Callable[[str], str],
) -> PackedAdapter:
    """The adapter in ``folder``; ``packed`` are the names of modules' parts, ``name_of`` vLLM's of PEFT's.

    Raises ValueError if it does not fit the base model. vLLM would find out in the step loop, or never.
    """
    shapes, bits = read_packed_adapter(folder)
    sizes = [each.rank * width for each in shapes for width in (each.inputs, each.outputs)]
    pieces = iter(torch.split(torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16), sizes))
    place = {part: (whole, at) for whole, parts in packed.items() for at, part in enumerate(parts)}
    loras: dict[str, PackedModuleFactors] = {}
    for shape in shapes:
        name = name_of(shape.layer)
        module, part = place.get(name, (name, 0))
        if module not in modules:
            raise ValueError(f"it changes {name}, which adapters cannot change here")
        layer = _layer(modules[module])
        if (shape.inputs, shape.outputs) != (layer.inputs, layer.outputs[part]):
            raise ValueError(f"its factors of {name} are of another base model's shape")
        parts = loras.setdefault(module, PackedModuleFactors([None] * len(layer.outputs))).lora_a
        parts[part] = (next(pieces).view(shape.rank, shape.inputs), next(pieces).view(shape.rank, shape.outputs))
    return PackedAdapter(number, max((shape.rank for shape in shapes), default=0), loras)


def _layer(module: Any) -> Layer:
    layer: Layer = module.punica_wrapper.layer(module.lora_a_stacked, module.lora_b_stacked)
    return layer


def _of_parts(a: Any, b: Any, layer: Layer) -> list[Factors | None]:
    """vLLM's form of a module's factors: one tensor, or one of each part, where None is left alone."""
    if isinstance(b, Tensor):  # of all parts, one below the other
        b = torch.split(b, list(layer.outputs)) if len(b) == sum(layer.outputs) else [b]
    if isinstance(a, Tensor):
        a = [a] * len(b)
    return [None if one is None else factors(one, other) for one, other in zip(a, b, strict=True)]
