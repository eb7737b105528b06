"""DoRA: LoRA learns the direction of a weight, and a vector learns the length of each of its rows.

``training/session.py`` uses it for the method ``dora``.
"""

from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor, nn
from typing_extensions import override

from looper.jobs.consolidation.adapters.lora import Factors, Lora, adapter_rank, approximate_update
from looper.jobs.consolidation.adapters.parametrization import Parametrization
from looper.jobs.consolidation.adapters.peft_layers import (
    ADAPTER,
    ActiveAdapter,
    DoraLayer,
    build_peft_model,
    get_peft_layer,
)


class Dora(Parametrization):
    """W' = m * (W + scale * b a) / ||W + scale * b a||, norms by rows, in PEFT's layers (Liu et al., 2024, 2402.09353).

    It starts equal to ``lora``, with m as the norm. Once m is learned, W' - W has full rank, so plain LoRA can only
    approximate it.

    Args:
        lora: The adapter to start from.
        linear: The linear layers of the base by name.
    """

    def __init__(self, lora: Lora, linear: Mapping[str, nn.Linear]) -> None:
        self._rank, scale = adapter_rank(lora), next(iter(lora.values())).scale
        config = LoraConfig(r=self._rank, lora_alpha=scale * self._rank, use_dora=True)
        model = build_peft_model({layer: linear[layer] for layer in lora}, config, seed=0)
        self._layers = {layer: get_peft_layer(model, layer) for layer in lora}
        for layer, factors in lora.items():
            _initialize_layer(self._layers[layer], factors)
        self.groups = [([parameter for parameter in model.parameters() if parameter.requires_grad], 1.0)]

    @override
    def active_adapter(self) -> ActiveAdapter:
        return {name: DoraLayer(layer) for name, layer in self._layers.items()}

    @torch.no_grad()
    def to_plain_lora(self) -> tuple[Lora, float]:
        """Return the nearest plain LoRA in the Frobenius norm, layer by layer, and its relative error.

        It has the rank that was trained. A larger rank brings little, because the spectrum of what the learned lengths
        add is flat, and the next session would cut it again.
        """
        lora: dict[str, Factors] = {}
        lost = whole = 0.0
        for name, layer in self._layers.items():
            dw = _layer_update(layer)
            lora[name] = approximate_update(dw, self._rank)
            lost += float((dw - lora[name].update()).square().sum())
            whole += float(dw.square().sum())
        return lora, (lost / whole) ** 0.5 if whole else 0.0


def _initialize_layer(layer: Any, factors: Factors) -> None:
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    with torch.no_grad():
        a.copy_(factors.a)
        b.copy_(factors.b)
    layer.lora_magnitude_vector[ADAPTER].update_layer(
        base_layer=layer.get_base_layer(), lora_A=a.detach(), lora_B=b.detach(), scaling=layer.scaling[ADAPTER]
    )


def _layer_update(layer: Any) -> Tensor:
    """Return W' - W of PEFT's layer, ``[out, in]`` in float32."""
    weight: Tensor = layer.get_base_layer().weight.float()
    directed: Tensor = weight + layer.get_delta_weight(ADAPTER)
    length = layer.lora_magnitude_vector[ADAPTER].weight
    update: Tensor = (length / directed.norm(dim=1))[:, None] * directed - weight
    return update
