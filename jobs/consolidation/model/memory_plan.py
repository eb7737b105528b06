"""How much memory training takes, counted without the device and without the weights.

A pass is run on tensors that have shapes and no content (PyTorch's FakeTensorMode), and what autograd keeps for the
backward pass is counted. So the count follows the model's own code, whatever its architecture. ``looper plan`` shows
it, and trainers on GPUs size their passes by it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.model.device import Device
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.platform.domain.recipe import Recipe

TARGET_SHARE = 0.5
"""Share of the tokens of a pass that are learned, for estimates. The head's logits are computed for these."""

_COPIES_OF_ADAPTER = 5
"""Weights, two moments of AdamW, gradients of the step so far, and gradients of the pass, all in float32."""

USED_SHARE = 0.9
"""Share of a device's free memory that is planned. Allocators leave gaps, and libraries take workspaces."""

MIN_TOKENS = 256
"""Tokens of a pass below which a device would be used badly."""

_COUNTED_TOKENS = 2048
_COUNTED_WINDOW = 512


@dataclass(frozen=True)
class MemoryPlan:
    """Memory of one worker, in bytes."""

    base: int
    """The frozen weights."""
    tenant: int
    """One tenant: its adapter, optimizer and gradients."""
    token: float
    """One token of a pass: what autograd keeps, and its share of the logits."""

    def peak(self, tenants: int, tokens: int) -> float:
        """Return the memory that a trainer takes at most.

        Args:
            tenants: Number of consolidations that it trains.
            tokens: Tokens of a pass.
        """
        return self.base + tenants * self.tenant + tokens * self.token

    def fitting_tokens(self, memory: float, tenants: int) -> int:
        """Return how many tokens of a pass fit.

        Args:
            memory: Memory of the device, in bytes.
            tenants: Number of consolidations that it trains.

        Returns:
            The tokens. 0 or less, if not even base and tenants fit.
        """
        return int((memory - self.base - tenants * self.tenant) / self.token)


def plan_memory(folder: Path, recipe: Recipe, device: Device, target_share: float = TARGET_SHARE) -> MemoryPlan:
    """Count the memory of training on a base model.

    Args:
        folder: Folder with the base model's config.
        recipe: Gives method, rank and target modules.
        device: Number formats. Its device is not used.
        target_share: Share of the tokens that are learned.

    Returns:
        The plan.

    Raises:
        InvalidInput: The base model's attention is not supported.
    """
    imagined = Device(torch.device("cpu"), device.dtype, device.max_tokens_per_pass, device.attention_dtype)

    def load(folder: Path, device: Device) -> PreTrainedModel:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(folder), dtype=device.dtype
        )
        return model

    with FakeTensorMode(allow_non_fake_inputs=True):
        base = SharedBase(folder, imagined, checked=False, load=load)
        weights = {storage_of(each): each.numel() * each.element_size() for each in base.weights}
        lora = base.init_adapter(recipe)
        packed = base.pack([_counted_windows(target_share)])
        saved: dict[int, int] = {}

        def count(tensor: torch.Tensor) -> torch.Tensor:
            saved[storage_of(tensor)] = tensor.untyped_storage().nbytes()
            return tensor

        with saved_tensors_hooks(count, lambda tensor: tensor):
            losses = base.losses(packed, [lora])
        factors = {storage_of(each) for layer in lora.values() for each in (layer.a, layer.b)}
        kept = sum(size for storage, size in saved.items() if storage not in weights and storage not in factors)
        adapter = sum(each.numel() for layer in lora.values() for each in (layer.a, layer.b)) * 4
        # The backward pass begins with the gradients of the logits, in float32 and in the base's own format.
        logits = losses.numel() * base.vocab_size * (4 + device.dtype.itemsize)
    return MemoryPlan(sum(weights.values()), _COPIES_OF_ADAPTER * adapter, (kept + logits) / packed.tokens.numel())


def fit_pass(plan: MemoryPlan, free: float, tenants: int, max_tokens: int) -> int:
    """Return how many tokens a pass has on a device on which the base model is already.

    Args:
        plan: The plan.
        free: Free memory of the device, in bytes.
        tenants: Number of consolidations that are trained at once.
        max_tokens: Tokens at which the device is at full speed.

    Returns:
        At least ``MIN_TOKENS``, even if they do not fit: what does not fit is halved when it comes to that.
    """
    fitting = plan.fitting_tokens(plan.base + free * USED_SHARE, tenants)
    return max(MIN_TOKENS, min(max_tokens, fitting))


def storage_of(tensor: torch.Tensor) -> int:
    """Return a number that tensors of the same memory have in common."""
    return int(tensor.untyped_storage()._cdata)


def _counted_windows(target_share: float) -> list[Window]:
    targets = max(1, int(_COUNTED_WINDOW * target_share))
    weights: Any = np.repeat(np.array([0.0, 1.0], np.float32), [_COUNTED_WINDOW - targets, targets])
    # They share no beginning: that would be computed once.
    return [
        Window(np.arange(first, first + _COUNTED_WINDOW, dtype=np.int32) % 100, weights, ())
        for first in range(_COUNTED_TOKENS // _COUNTED_WINDOW)
    ]
