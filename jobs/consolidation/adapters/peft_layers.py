"""PEFT layers around the linear layers of a shared base, without replacing them in the base.

``dora.py`` and ``adalora.py`` build them; ``model/shared_base.py`` calls them in a pass.
"""

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
    """PEFT's DoRA layer around one linear layer."""

    layer: Any
    """A ``peft.tuners.lora.Linear`` around the base's layer. It reads only the weight of that layer."""

    def output(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the output of the adapted layer, ``[1, L, out]``.

        Args:
            x: Input of the layer, ``[1, L, in]``.
            y: Output of the base's layer for ``x``, ``[1, L, out]``.
        """
        variant = self.layer.lora_variant[ADAPTER]
        get_peft_layer: Tensor = variant.forward(self.layer, active_adapter=ADAPTER, x=x.float(), result=y)
        return get_peft_layer.to(y.dtype)


ActiveAdapter: TypeAlias = Mapping[str, Factors | DoraLayer]
"""What acts on the base, by the layer's name."""


class _LinearLayers(nn.ModuleDict):
    """Linear layers as a model that PEFT can adapt. Its loss is only what PEFT adds to a model's loss."""

    def __init__(self, linear: Mapping[str, nn.Linear]) -> None:
        super().__init__({_key(name): layer for name, layer in linear.items()})
        self._device = next(iter(linear.values())).weight.device

    def forward(self) -> SimpleNamespace:
        return SimpleNamespace(loss=torch.zeros((), device=self._device))


def build_peft_model(linear: Mapping[str, nn.Linear], config: LoraConfig, seed: int) -> PeftModel:
    """Build a PEFT model of some layers of the base. The base itself keeps its own layers.

    Args:
        linear: The layers by their names in the base.
        config: PEFT's configuration. Its ``target_modules`` are set here.
        seed: Seed of the initialization.

    Returns:
        The model. ``get_peft_layer`` returns its layers.
    """
    layers = _LinearLayers(linear)
    config.target_modules = set(layers)
    with torch.random.fork_rng(devices=[]):  # PEFT initializes on the CPU
        torch.manual_seed(seed)
        return get_peft_model(layers, config, adapter_name=ADAPTER)


def get_peft_layer(model: PeftModel, name: str) -> Any:
    """Return the layer of ``model`` that PEFT put around the base's layer ``name``."""
    return model.base_model.model[_key(name)]


def _key(name: str) -> str:
    return name.replace(".", "/")  # the names of modules hold no dots
