"""AdaLoRA: the update is a singular value decomposition that keeps ranks where the loss depends on them most.

``training/session.py`` uses it for the method ``adalora``.
"""

from collections.abc import Mapping
from typing import Any

import torch
from peft import AdaLoraConfig
from torch import Tensor, nn
from typing_extensions import override

from looper.jobs.consolidation.adapters.lora import Factors, Lora, svd_of_update
from looper.jobs.consolidation.adapters.parametrization import Parametrization
from looper.jobs.consolidation.adapters.peft_layers import ADAPTER, build_peft_model, get_peft_layer
from looper.jobs.consolidation.strategies.strategy import StrategyState
from looper.jobs.consolidation.strategies.tensors import add_prefix, select_prefix
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.recipe import Recipe


class AdaLora(Parametrization):
    """dW = scale * P diag(e) Q, in PEFT's layers, pruned by its rank allocator (Zhang et al., 2023, 2303.10512).

    Each layer starts with the recipe's rank and keeps at most that. The average rank falls to two thirds of it, which
    is the paper's proportion. Pruning starts after a tenth of the steps and ends a third before the last one. Pruned
    ranks are zeros in e, so b = P, a = diag(e) Q is exactly plain LoRA of the recipe's rank. It starts equal to
    ``lora``.

    Args:
        recipe: The recipe, for its rank, alpha and seed.
        lora: The adapter to start from.
        linear: The linear layers of the base by name.
        steps: Optimizer steps of the session.

    Raises:
        InvalidInput: If the rank or the number of steps is below 2, so that nothing can be pruned.
    """

    def __init__(self, recipe: Recipe, lora: Lora, linear: Mapping[str, nn.Linear], steps: int) -> None:
        if recipe.rank < 2 or steps < 2:
            raise InvalidInput(
                f"method 'adalora' prunes ranks from step to step, so it needs a rank and a number of steps of at "
                f"least 2, and this has rank {recipe.rank} and {steps} steps: choose method 'lora' or raise them"
            )
        config = AdaLoraConfig(
            init_r=recipe.rank,
            target_r=recipe.rank * 2 // 3,
            lora_alpha=recipe.alpha,
            tinit=steps // 10,
            tfinal=steps // 3,
            total_step=steps,
        )
        self._model = build_peft_model({layer: linear[layer] for layer in lora}, config, recipe.seed)
        self._layers = {layer: get_peft_layer(self._model, layer) for layer in lora}
        # PEFT divides by the initial rank of a layer plus 1e-5.
        self._scale = recipe.alpha / (recipe.rank + 1e-5)
        for layer, factors in lora.items():
            _initialize_layer(self._layers[layer], factors, self._scale)
        self.groups = [([parameter for parameter in self._model.parameters() if parameter.requires_grad], 1.0)]

    @override
    def active_adapter(self) -> Lora:
        return {
            name: Factors(layer.lora_A[ADAPTER] * layer.lora_E[ADAPTER], layer.lora_B[ADAPTER], self._scale)
            for name, layer in self._layers.items()
        }

    @override
    @torch.no_grad()
    def to_plain_lora(self) -> tuple[Lora, float]:
        return {layer: each.copy() for layer, each in self.active_adapter().items()}, 0.0

    @override
    def penalty(self) -> Tensor:
        """Return PEFT's penalty, which keeps P and Q nearly orthogonal."""
        penalty: Tensor = self._model.base_model().loss
        return penalty

    @override
    def after_step(self, step: int) -> None:
        self._model.base_model.update_and_allocate(step)

    @override
    def state(self) -> StrategyState:
        allocator = self._model.base_model.rankallocator
        kept = self._model.peft_config[ADAPTER].rank_pattern or {}
        return {
            **add_prefix("sensitivity", allocator.exp_avg_ipt),
            **add_prefix("uncertainty", allocator.exp_avg_unc),
            **add_prefix("kept", {name: torch.tensor(ranks) for name, ranks in kept.items()}),
        }

    @override
    def resume(self, state: StrategyState) -> None:
        allocator = self._model.base_model.rankallocator
        device = next(self._model.parameters()).device
        allocator.exp_avg_ipt = {name: each.to(device) for name, each in select_prefix("sensitivity", state).items()}
        allocator.exp_avg_unc = {name: each.to(device) for name, each in select_prefix("uncertainty", state).items()}
        allocator.ipt = dict(allocator.exp_avg_ipt)  # holds the latest step only; PEFT restarts what is missing
        kept = {name: ranks.tolist() for name, ranks in select_prefix("kept", state).items()}
        self._model.peft_config[ADAPTER].rank_pattern = kept or None


@torch.no_grad()
def _initialize_layer(layer: Any, factors: Factors, scale: float) -> None:
    """Make the layer's update equal to ``factors``. Where that update is zero, PEFT's own initialization stays."""
    u, s, v = svd_of_update(factors)
    count = int((s > 0).sum())
    layer.lora_A[ADAPTER][:count] = v[:count]
    layer.lora_E[ADAPTER][:count, 0] = s[:count] / scale
    layer.lora_B[ADAPTER][:, :count] = u[:, :count]
