"""LoRA in vLLM's CPU engine with Looper's kernel in place of vLLM's, which gathers the factors of every token first.

vLLM (0.29) also applies the last slot's adapter to tokens without an adapter, whenever another token of the batch has
one. Here they get none. vLLM copies an adapter into its slot within an engine step. Here a slot points to the adapter.

``vllm_plugin`` and ``staging`` install these classes. The arithmetic is in ``lora_slots``.
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
from looper.serve.cpu.lora_slots import LayerSlots, PackedFactors, RowTiles, pack_factors, tile_rows_by_slot


class TiledPunicaWrapper(PunicaWrapperCPU):  # type: ignore[misc]
    """What vLLM's LoRA layers call. Slots are counted from 0, and -1 marks a token without an adapter."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take the arguments of vLLM's wrapper.

        Args:
            *args: As in vLLM's wrapper.
            **kwargs: As in vLLM's wrapper.
        """
        super().__init__(*args, **kwargs)
        self._slots_by_layer: dict[int, LayerSlots] = {}
        self._tiles: RowTiles | None = None

    def update_metadata(
        self, mapping: LoRAMapping, lora_index_to_id: list[int | None], max_loras: int, vocab_size: int, **kwargs: Any
    ) -> None:
        """Prepare for the next batch. vLLM calls this in each step.

        Args:
            mapping: Adapter of each token of the batch.
            lora_index_to_id: Adapter in each slot.
            max_loras: Number of slots.
            vocab_size: As in vLLM's wrapper.
            **kwargs: As in vLLM's wrapper.
        """
        super().update_metadata(mapping, lora_index_to_id, max_loras, vocab_size, **kwargs)
        self._tiles = tile_rows_by_slot(self.token_lora_indices.numpy())

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
        """Add the LoRA update of ``x`` to ``y`` in place.

        Rows beyond those of the batch have no adapter: the engine pads batches.

        Args:
            y: ``[T, sum of output_slices]``, possibly with more leading dimensions.
            x: ``[T, inputs]``, possibly with more leading dimensions.
            lora_a_stacked: vLLM's slots for A. They identify the layer.
            lora_b_stacked: vLLM's slots for B.
            scale: Factor of the update.
            output_slices: Number of output features of each merged layer.
            buffer: Not used.
            **kwargs: Not used.
        """
        if self._tiles is not None:
            slots = self.layer_slots(lora_a_stacked, lora_b_stacked)
            slots.add_lora(y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1]), scale, self._tiles)

    def layer_slots(self, a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> LayerSlots:
        """Return the slots that replace vLLM's slots of a layer. vLLM's stay empty.

        Args:
            a: vLLM's slots for A, ``[slots, 1, rank, inputs]`` of each slice.
            b: vLLM's slots for B, ``[slots, 1, outputs, rank]`` of each slice.

        Returns:
            The layer's slots. They are created at the first call.
        """
        key = a[0].data_ptr()  # vLLM's layer keeps the tensor alive, so no other tensor gets its address
        if key not in self._slots_by_layer:
            self._slots_by_layer[key] = LayerSlots(a[0].shape[0], a[0].shape[3], [part.shape[2] for part in b])
        return self._slots_by_layer[key]


def use_pointer_slots(modules: Mapping[str, BaseLayerWithLoRA]) -> None:
    """Make vLLM's LoRA layers point to adapters instead of copying them.

    Args:
        modules: vLLM's LoRA layers, by name.
    """
    for module in modules.values():
        slots = _layer_slots(module)

        def set_lora(index: int, a: Any, b: Any, slots: LayerSlots = slots) -> None:
            slots.set_slot(index, a if b is None else _pack_slices(a, b, slots))

        def reset_lora(index: int, slots: LayerSlots = slots) -> None:
            slots.set_slot(index, [None] * len(slots.outputs))

        module.set_lora, module.reset_lora = set_lora, reset_lora


@dataclass(frozen=True)
class PackedModuleFactors:
    """An adapter's factors of one module, in place of vLLM's tensors."""

    lora_a: list[PackedFactors | None]
    """Factors A and B of each slice. None: the adapter does not change the slice."""
    lora_b: None = None
    """Always None, which marks packed factors where vLLM has a tensor."""


class PackedAdapter(LoRAModel):  # type: ignore[misc]
    """An adapter in the kernel's layout, which slots can point to."""


class SlotPointerLoRAManager(LRUCacheLoRAModelManager):  # type: ignore[misc]
    """vLLM's manager of the slots, which takes packed adapters as they are."""

    def _create_merged_loras_inplace(self, lora_model: LoRAModel) -> None:
        """Merge the factors of q, k and v. Packed adapters need no merging, and vLLM calls this within a step."""
        if not isinstance(lora_model, PackedAdapter):
            super()._create_merged_loras_inplace(lora_model)


def read_packed_lora(
    folder: Path,
    lora_int_id: int,
    modules: Mapping[str, BaseLayerWithLoRA],
    packed_modules: Mapping[str, Sequence[str]],
    to_vllm_name: Callable[[str], str],
) -> PackedAdapter:
    """Read a packed adapter from disk and check that it fits the base model.

    vLLM would notice a misfit in the step loop, or never.

    Args:
        folder: Folder of the adapter.
        lora_int_id: vLLM's number for the adapter.
        modules: vLLM's LoRA layers, by name.
        packed_modules: Names of the layers that each merged module consists of, by its name.
        to_vllm_name: Returns vLLM's name of a layer for PEFT's.

    Returns:
        The adapter.

    Raises:
        ValueError: The adapter does not fit the base model.
    """
    shapes, bits = read_packed_adapter(folder)
    sizes = [shape.rank * width for shape in shapes for width in (shape.inputs, shape.outputs)]
    factors = iter(torch.split(torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16), sizes))
    slice_of = {part: (module, i) for module, parts in packed_modules.items() for i, part in enumerate(parts)}
    loras: dict[str, PackedModuleFactors] = {}
    for shape in shapes:
        name = to_vllm_name(shape.layer)
        module, part = slice_of.get(name, (name, 0))
        if module not in modules:
            raise ValueError(f"the adapter changes {name}, which is not a LoRA layer of this engine")
        slots = _layer_slots(modules[module])
        if (shape.inputs, shape.outputs) != (slots.inputs, slots.outputs[part]):
            raise ValueError(
                f"the adapter's factors of {name} are for {shape.inputs} inputs and {shape.outputs} outputs, but this "
                f"base model's layer has {slots.inputs} and {slots.outputs[part]}"
            )
        slices = loras.setdefault(module, PackedModuleFactors([None] * len(slots.outputs))).lora_a
        slices[part] = (next(factors).view(shape.rank, shape.inputs), next(factors).view(shape.rank, shape.outputs))
    return PackedAdapter(lora_int_id, max((shape.rank for shape in shapes), default=0), loras)


def _layer_slots(module: Any) -> LayerSlots:
    slots: LayerSlots = module.punica_wrapper.layer_slots(module.lora_a_stacked, module.lora_b_stacked)
    return slots


def _pack_slices(a: Any, b: Any, slots: LayerSlots) -> list[PackedFactors | None]:
    """Pack vLLM's form of a module's factors: one tensor, or a list with one per slice, where None is unchanged."""
    if isinstance(b, Tensor):  # the slices are stacked along the outputs
        b = torch.split(b, list(slots.outputs)) if len(b) == sum(slots.outputs) else [b]
    if isinstance(a, Tensor):
        a = [a] * len(b)
    return [None if one is None else pack_factors(one, other) for one, other in zip(a, b, strict=True)]
