"""How much memory training takes, counted without the device and without the weights.

A pass is run on tensors that have shapes and no content (PyTorch's FakeTensorMode), and the tensors that exist at once
are counted. So the count follows the model's own code, whatever its architecture. ``looper plan`` shows it, and
trainers on GPUs size their passes by it.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from looper.jobs.consolidation.adapters.lora import Lora
from looper.jobs.consolidation.data.packing import PackedBatch
from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.model.device import Device
from looper.jobs.consolidation.model.head import MAX_LOGITS
from looper.jobs.consolidation.model.live_memory import LiveMemory, storage_of
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

EFFICIENT_TOKENS = 4096
"""Tokens of a pass from which longer passes gain less than it takes to compute activations again. This is reckoned: a
GPU reads each weight once per pass, which takes as long as computing with 300 tokens, and starts several kernels per
layer and tenant, which with 16 tenants takes as long as 1,500 tokens."""

_COUNTED_TOKENS = 2048
_COUNTED_WINDOW = 512


@dataclass(frozen=True)
class PassMemory:
    """Memory of a pass, in bytes for each of its tokens."""

    kept: float
    """What autograd keeps for the backward pass."""
    backward: float
    """What exists at most during the backward pass."""


@dataclass(frozen=True)
class MemoryPlan:
    """Memory of one worker, in bytes."""

    base: int
    """The frozen weights."""
    tenant: int
    """One tenant: its adapter, optimizer and gradients."""
    keeping: PassMemory
    """A pass that keeps all activations."""
    recomputing: PassMemory
    """A pass whose backward pass computes the activations of each layer again."""
    logits: float
    """What the head needs for all tokens of a pass whose logits exist at once, for each token."""
    logits_at_once: float
    """What the head needs at most, in a longer pass too."""

    def peak(self, tenants: int, tokens: int, recomputes: bool = False) -> float:
        """Return the memory that a trainer takes at most.

        Args:
            tenants: Number of consolidations that it trains.
            tokens: Tokens of a pass.
            recomputes: Whether the backward pass computes activations again.
        """
        of_pass = self.recomputing if recomputes else self.keeping
        logits = min(tokens * self.logits, self.logits_at_once)
        return self.base + tenants * self.tenant + max(tokens * of_pass.kept + logits, tokens * of_pass.backward)

    def fitting_tokens(self, memory: float, tenants: int, recomputes: bool = False) -> int:
        """Return how many tokens of a pass fit.

        Args:
            memory: Memory of the device, in bytes.
            tenants: Number of consolidations that it trains.
            recomputes: Whether the backward pass computes activations again.

        Returns:
            The tokens. 0 or less, if not even base and tenants fit.
        """
        of_pass = self.recomputing if recomputes else self.keeping
        left = memory - self.base - tenants * self.tenant
        beside_logits = max(left / (of_pass.kept + self.logits), (left - self.logits_at_once) / of_pass.kept)
        return int(min(beside_logits, left / of_pass.backward))


@dataclass(frozen=True)
class PassChoice:
    """How a trainer runs its passes."""

    tokens: int
    """Tokens of a pass, as many as fit. 0 or less, if not even base and tenants fit."""
    recomputes: bool
    """Whether the backward pass computes activations again."""


def choose_pass(plan: MemoryPlan, memory: float, tenants: int, max_tokens: int) -> PassChoice:
    """Choose how to run passes: activations are computed again only where short passes would cost more than that.

    Computing them again takes half of a pass more, because a frozen base has no gradients of weights. Below
    ``EFFICIENT_TOKENS``, a pass is so short that longer ones make up for it.

    Args:
        plan: The plan.
        memory: Memory of the device, in bytes.
        tenants: Number of consolidations that are trained at once.
        max_tokens: Tokens at which the device is at full speed.

    Returns:
        The choice.
    """
    kept, recomputed = (
        PassChoice(min(max_tokens, plan.fitting_tokens(memory, tenants, each)), each) for each in (False, True)
    )
    return recomputed if kept.tokens < min(EFFICIENT_TOKENS, recomputed.tokens) else kept


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
        lora = base.init_adapter(recipe)
        packed = base.pack([_counted_windows(target_share)])
        keeping, logit = _count_pass(base, packed, lora)
        base.recomputes = True
        recomputing, _ = _count_pass(base, packed, lora)
    targets = packed.targets.numel() / packed.tokens.numel()
    return MemoryPlan(
        base=sum({storage_of(each): each.numel() * each.element_size() for each in base.weights}.values()),
        tenant=_COPIES_OF_ADAPTER * 4 * sum(each.numel() for each in _trained(lora)),
        keeping=keeping,
        recomputing=recomputing,
        logits=targets * base.vocab_size * logit,
        logits_at_once=max(MAX_LOGITS, base.vocab_size) * logit,
    )


def _count_pass(base: SharedBase, packed: PackedBatch, lora: Lora) -> tuple[PassMemory, float]:
    """Return the memory of a pass, and what the head needs beside it for each logit."""
    tokens = packed.tokens.numel()
    at_once = math.ceil(packed.targets.numel() / base.head.count_parts(packed.targets.numel()))
    with LiveMemory() as memory:
        losses = base.losses(packed, [lora])
        kept, head = memory.live, memory.peak - memory.live
        memory.reset_peak()
        torch.autograd.grad(losses.sum(), _trained(lora))
    return PassMemory(kept / tokens, memory.peak / tokens), head / (at_once * base.vocab_size)


def _trained(lora: Lora) -> list[torch.Tensor]:
    return [each for layer in lora.values() for each in (layer.a, layer.b)]


def _counted_windows(target_share: float) -> list[Window]:
    targets = max(1, int(_COUNTED_WINDOW * target_share))
    weights: Any = np.repeat(np.array([0.0, 1.0], np.float32), [_COUNTED_WINDOW - targets, targets])
    # They share no beginning: that would be computed once.
    return [
        Window(np.arange(first, first + _COUNTED_WINDOW, dtype=np.int32) % 100, weights, ())
        for first in range(_COUNTED_TOKENS // _COUNTED_WINDOW)
    ]
