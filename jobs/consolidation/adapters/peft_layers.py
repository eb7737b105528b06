"""PEFT's own layers over those of a shared base, without taking their place in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeAlias

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from looper.jobs.consolidation.adapters.lora import Factors

ADAPTER = "default"
"""PEFT's name for a model's only adapter."""


@dataclass(frozen=True)
class DoraLayer:
    """PEFT's DoRA of one linear layer."""

    layer: Any
    """A ``peft.tuners.lora.Linear`` around the base's layer, of which it needs the weight only."""

    def output(self, x: Tensor, y: Tensor) -> Tensor:
        """What the adapted layer gives for ``x`` ``[1, L, in]``, where the base's gives ``y`` ``[1, L, out]``."""
        variant = self.layer.lora_variant[ADAPTER]
        adapted: Tensor = variant.forward(self.layer, active_adapter=ADAPTER, x=x.float(), result=y)
        return adapted.to(y.dtype)


Acting: TypeAlias = Mapping[str, Factors | DoraLayer]
"""What acts on the base, by the layer's name in it."""


class _Layers(nn.ModuleDict):
    """Some linear layers as a model that PEFT can adapt. Its loss is nothing but what PEFT adds to a model's."""

    def __init__(self, linear: Mapping[str, nn.Linear]) -> None:
        super().__init__({_key(name): layer for name, layer in linear.items()})
        self._device = next(iter(linear.values())).weight.device

    def forward(self) -> SimpleNamespace:
        return SimpleNamespace(loss=torch.zeros((), device=self._device))


def adapt(linear: Mapping[str, nn.Linear], config: LoraConfig, seed: int) -> PeftModel:
    """A PEFT model of just these layers, by their names in the base, freshly initialised from ``seed``.

    Only this model sees PEFT's layers: in the base, its own stay where they are and do as they did.
    """
    layers = _Layers(linear)
    config.target_modules = set(layers)
    with torch.random.fork_rng(devices=[]):  # PEFT initialises on the CPU
        torch.manual_seed(seed)
        return get_peft_model(layers, config, adapter_name=ADAPTER)


def adapted(model: PeftModel, name: str) -> Any:
    """PEFT's layer around the base's layer ``name``."""
    return model.base_model.model[_key(name)]


def _key(name: str) -> str:
    return name.replace(".", "/")  # the names of modules hold no dots
