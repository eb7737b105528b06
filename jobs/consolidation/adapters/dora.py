"""DoRA: the direction of a weight is learned by LoRA, and the length of each of its rows by itself."""

from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor, nn

from looper.jobs.consolidation.adapters.lora import Factors, Lora, approximate, rank_of
from looper.jobs.consolidation.adapters.parametrization import Parametrization
from looper.jobs.consolidation.adapters.peft_layers import ADAPTER, Acting, DoraLayer, adapt, adapted


class Dora(Parametrization):
    """W' = m * (W + scale * b a) / ||W + scale * b a||, norms by rows, in PEFT's layers (Liu et al., 2024, 2402.09353).

    Begins as ``lora`` does: m is the norm then. W' - W is of full rank where m is learned, so that plain LoRA can only
    approximate it.
    """

    def __init__(self, lora: Lora, linear: Mapping[str, nn.Linear]) -> None:
        self._rank, scale = rank_of(lora), next(iter(lora.values())).scale
        config = LoraConfig(r=self._rank, lora_alpha=scale * self._rank, use_dora=True)
        model = adapt({layer: linear[layer] for layer in lora}, config, seed=0)
        self._layers = {layer: adapted(model, layer) for layer in lora}
        for layer, factors in lora.items():
            _begin_as(self._layers[layer], factors)
        self.groups = [([parameter for parameter in model.parameters() if parameter.requires_grad], 1.0)]

    def acting(self) -> Acting:
        return {name: DoraLayer(layer) for name, layer in self._layers.items()}

    @torch.no_grad()
    def plain(self) -> tuple[Lora, float]:
        """Layer by layer the nearest in the Frobenius norm.

        Of the rank that was trained: a larger one brings little, since the spectrum of what learned lengths add is
        flat, and would be cut again when the next session goes on from it.
        """
        lora: dict[str, Factors] = {}
        lost = whole = 0.0
        for name, layer in self._layers.items():
            dw = _update(layer)
            lora[name] = approximate(dw, self._rank)
            lost += float((dw - lora[name].update()).square().sum())
            whole += float(dw.square().sum())
        return lora, (lost / whole) ** 0.5 if whole else 0.0


def _begin_as(layer: Any, factors: Factors) -> None:
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    with torch.no_grad():
        a.copy_(factors.a)
        b.copy_(factors.b)
    layer.lora_magnitude_vector[ADAPTER].update_layer(
        base_layer=layer.get_base_layer(), lora_A=a.detach(), lora_B=b.detach(), scaling=layer.scaling[ADAPTER]
    )


def _update(layer: Any) -> Tensor:
    """W' - W ``[out, in]`` of PEFT's layer, in float32."""
    weight: Tensor = layer.get_base_layer().weight.float()
    directed: Tensor = weight + layer.get_delta_weight(ADAPTER)
    length = layer.lora_magnitude_vector[ADAPTER].weight
    update: Tensor = (length / directed.norm(dim=1))[:, None] * directed - weight
    return update
