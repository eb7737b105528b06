"""AdaLoRA: the update as a singular value decomposition whose rank is spent where the loss depends on it most."""

from collections.abc import Mapping
from typing import Any

import torch
from peft import AdaLoraConfig
from torch import Tensor, nn

from looper.jobs.consolidation.adapters.lora import Factors, Lora, svd
from looper.jobs.consolidation.adapters.parametrization import Parametrization
from looper.jobs.consolidation.adapters.peft_layers import ADAPTER, adapt, adapted
from looper.jobs.consolidation.strategies.strategy import State
from looper.jobs.consolidation.strategies.tensors import under, within
from looper.platform.domain.consolidation import Recipe
from looper.platform.domain.errors import InvalidInput


class AdaLora(Parametrization):
    """dW = scale * P diag(e) Q, in PEFT's layers, pruned by its rank allocator (Zhang et al., 2023, 2303.10512).

    The recipe's rank is what each layer begins with and can keep at most; the average comes down to two thirds of it,
    the paper's proportion. A tenth of the steps go before the pruning and a third after it. What is pruned is masked by
    zeros in e, so that b = P, a = diag(e) Q is plain LoRA, exactly and of the recipe's rank.

    Begins as ``lora`` does. Raises InvalidInput where there is nothing to prune, or no time for it.
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
        self._model = adapt({layer: linear[layer] for layer in lora}, config, recipe.seed)
        self._layers = {layer: adapted(self._model, layer) for layer in lora}
        # PEFT divides by the rank that a layer begins with, and a little.
        self._scale = recipe.alpha / (recipe.rank + 1e-5)
        for layer, factors in lora.items():
            _begin_as(self._layers[layer], factors, self._scale)
        self.groups = [([parameter for parameter in self._model.parameters() if parameter.requires_grad], 1.0)]

    def acting(self) -> Lora:
        return {
            name: Factors(layer.lora_A[ADAPTER] * layer.lora_E[ADAPTER], layer.lora_B[ADAPTER], self._scale)
            for name, layer in self._layers.items()
        }

    @torch.no_grad()
    def plain(self) -> tuple[Lora, float]:
        return {layer: each.copy() for layer, each in self.acting().items()}, 0.0

    def penalty(self) -> Tensor:
        """PEFT's, which keeps P and Q near to orthogonal."""
        penalty: Tensor = self._model.base_model().loss
        return penalty

    def stepped(self, step: int) -> None:
        self._model.base_model.update_and_allocate(step)

    def state(self) -> State:
        allocator = self._model.base_model.rankallocator
        kept = self._model.peft_config[ADAPTER].rank_pattern or {}
        return {
            **under("sensitivity", allocator.exp_avg_ipt),
            **under("uncertainty", allocator.exp_avg_unc),
            **under("kept", {name: torch.tensor(ranks) for name, ranks in kept.items()}),
        }

    def resume(self, state: State) -> None:
        allocator = self._model.base_model.rankallocator
        device = next(self._model.parameters()).device
        allocator.exp_avg_ipt = {name: each.to(device) for name, each in within("sensitivity", state).items()}
        allocator.exp_avg_unc = {name: each.to(device) for name, each in within("uncertainty", state).items()}
        allocator.ipt = dict(allocator.exp_avg_ipt)  # of the latest step only; what is missing in it begins anew
        kept = {name: ranks.tolist() for name, ranks in within("kept", state).items()}
        self._model.peft_config[ADAPTER].rank_pattern = kept or None


@torch.no_grad()
def _begin_as(layer: Any, factors: Factors, scale: float) -> None:
    """Where the update is zero, PEFT's own initialisation stays."""
    u, s, v = svd(factors)
    count = int((s > 0).sum())
    layer.lora_A[ADAPTER][:count] = v[:count]
    layer.lora_E[ADAPTER][:count, 0] = s[:count] / scale
    layer.lora_B[ADAPTER][:, :count] = u[:, :count]
