"""LoRA in vLLM's CPU engine by a kernel of ours, where vLLM gathers each token's factors first.

vLLM's own (0.29) also takes the last slot's adapter for a token that has none, whenever the batch holds one that has.
Here it gets none.
"""

from typing import Any

from torch import Tensor
from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from looper.serve.lora_kernel import Layer, Tiles, tiles


class TiledLora(PunicaWrapperCPU):  # type: ignore[misc]
    """What vLLM's LoRA layers call; see the module. Slots are counted from 0, and -1 is a token without an adapter."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._layers: dict[int, Layer] = {}
        self._tokens: Tiles | None = None
        self._samples: Tiles | None = None

    def update_metadata(
        self, mapping: LoRAMapping, lora_index_to_id: list[int | None], max_loras: int, vocab_size: int, **kwargs: Any
    ) -> None:
        super().update_metadata(mapping, lora_index_to_id, max_loras, vocab_size, **kwargs)
        self._tokens = tiles(self.token_lora_indices.numpy())
        self._samples = tiles(self.sampler_indices.numpy())

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
        layer = self._layer(lora_a_stacked, lora_b_stacked)  # made in vLLM's dry run, before anybody waits for it
        if self._tokens is not None:
            layer.add(y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1]), scale, self._tokens)

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
        layer = self._layer((lora_a_stacked,), (lora_b_stacked,))
        if self._samples is not None:
            layer.add(y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1]), scale, self._samples)

    def _layer(self, a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> Layer:
        key = a[0].data_ptr()  # the layer holds it, and so it stays
        if key not in self._layers:
            self._layers[key] = Layer(a, b)
        return self._layers[key]
