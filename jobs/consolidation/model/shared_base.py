"""One frozen base model in memory, shared by all adapters that are trained on it.

A trainer's worker loads one ``SharedBase``. Training sessions, strategies and the scoring of candidates compute their
logits and losses through it, several adapters per pass.
"""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations import HfDeepSpeedConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from looper.basemodel.linear_layers import find_linear_layers
from looper.jobs.consolidation.adapters.lora import Factors
from looper.jobs.consolidation.adapters.peft_layers import ActiveAdapter, DoraLayer
from looper.jobs.consolidation.data import packing
from looper.jobs.consolidation.data.packing import PackedBatch
from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.model import nf4
from looper.jobs.consolidation.model.deepspeed_engine import initialize_engine
from looper.jobs.consolidation.model.device import Device
from looper.jobs.consolidation.model.grouped_lora import add_lora_updates
from looper.jobs.consolidation.model.head import LanguageModelHead
from looper.platform.adapters.base_revision import read_base_manifest, read_base_revision
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.recipe import Recipe

_ATTENTION = "looper_packed"
AttentionInterface.register(_ATTENTION, packing.packed_attention)

_Active: TypeAlias = tuple[Sequence[int], Sequence[ActiveAdapter]]
"""The number of tokens of each owner, and the owners' adapters."""

_CHECKED_TEXT = "The ship leaves the harbor at noon. Please send two crates of fish to the dock and tell the captain."
"""Text of the check. Tokens that never follow each other would do for float32, but in bfloat16 their logits say nothing
(SmolLM2-135M: 129 % off for special tokens in a row, 2.5 % for text)."""

_CHECKED_UPDATE = 0.02
"""Standard deviation of ``b`` in the adapters of the check. Their updates are small beside the weights."""


class SharedBase:
    """A frozen base model, with hooks that add the update of each token's own adapter.

    Attributes:
        device: Device of the base model and of all adapters on it.
        folder: Folder of the base model.
        head: The part of the model that computes logits.
        is_quantized: Whether the linear layers are in NF4.
        is_sharded: Whether each worker holds only a part of the weights.
        linear_layers: The linear layers of the transformer blocks, by name.
        fitting_tokens: Tokens of a pass that fit into the memory of this worker's device, as far as is known.
        max_tokens_per_pass: Tokens of one forward and backward pass, the same for all workers.
        number_formats: The device with its number formats, as it was picked.
        on_pass: Called after each forward pass.
        recomputes: Whether the backward pass computes each layer's activations again, instead of keeping them.
        vocab_size: Number of tokens that logits are computed for.
        weights: All weights.
    """

    def __init__(
        self,
        folder: Path,
        device: Device,
        *,
        sharded: bool = False,
        checked: bool = True,
        load: Callable[[Path, Device], PreTrainedModel] | None = None,
    ) -> None:
        """Load the base model.

        Args:
            folder: Folder that ``looper.basemodel.prepare`` returned.
            device: Where to load it.
            sharded: Whether each worker of the trainer holds a part of the weights (DeepSpeed ZeRO stage 3). Every
                computation on a sharded base is a collective: all workers take part with the same number of passes.
            checked: Whether to compare packed passes with plain ones first. That needs real weights.
            load: Loads the weights in another way, such as ``nf4.load_quantized``.

        Raises:
            InvalidInput: If the base model computes its attention or logits in an unsupported way, or if a quantized
                base is to be sharded.
        """
        self.folder, self.number_formats = folder, device
        self.is_quantized = load is nf4.load_quantized
        if sharded and self.is_quantized:
            raise InvalidInput(
                "method 'qlora' does not work with consolidation.sharded: turn that off, or choose method 'lora'"
            )
        self.is_sharded = sharded
        self.device = device.torch_device
        self.max_tokens_per_pass = device.max_tokens_per_pass
        self.fitting_tokens = sys.maxsize
        self.on_pass: Callable[[], object] = lambda: None
        model = (load or (_load_sharded if sharded else _load_unsharded))(folder, device)
        model.requires_grad_(False).eval()  # without dropout, so that a training step is a function of the recipe
        self._model: PreTrainedModel = model
        self.weights = list(model.parameters())
        self.head = LanguageModelHead(model)
        self.vocab_size = self.head.vocab_size
        self.recomputes = False
        self.linear_layers = find_linear_layers(model)
        self._active: _Active | None = None
        """What acts during a pass."""
        for name, layer in self.linear_layers.items():
            layer.register_forward_hook(partial(self._add_updates, name))
        for module in model.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.forward = partial(self._run_layer, module.forward)
        if checked:
            self._check_packing()
        model.set_attn_implementation(_ATTENTION)

    def init_adapter(self, recipe: Recipe) -> dict[str, Factors]:
        """Make a new adapter as PEFT initializes one. Its update is zero.

        The scale of rslora is alpha / sqrt(rank), so that gradients do not shrink as the rank grows (Kalajdzievski,
        2023, arXiv 2312.03732). All other methods use alpha / rank.

        Args:
            recipe: Gives method, rank, alpha, target modules and seed.

        Returns:
            Trainable factors by layer name: ``a`` is ``[rank, in]`` and ``b`` is ``[out, rank]``, in float32.

        Raises:
            InvalidInput: If the base lacks a layer that the recipe names.
        """
        rng = torch.Generator().manual_seed(recipe.seed)
        lora = {}
        scale = recipe.alpha / (math.sqrt(recipe.rank) if recipe.method == "rslora" else recipe.rank)
        for name, layer in self._select_layers(recipe).items():
            bound = layer.in_features**-0.5  # PEFT's kaiming_uniform_ with a = sqrt(5)
            a = torch.empty(recipe.rank, layer.in_features).uniform_(-bound, bound, generator=rng)
            b = torch.zeros(layer.out_features, recipe.rank)
            lora[name] = Factors(nn.Parameter(a.to(self.device)), nn.Parameter(b.to(self.device)), scale)
        return lora

    @cached_property
    def revision(self) -> str:
        """SHA-256 of the weights; the manifest of every adapter names it."""
        return read_base_revision(self.folder)

    @cached_property
    def parameters(self) -> int:
        """Number of its parameters. Those in memory may be a part of them, or two in a byte."""
        return read_base_manifest(self.folder).parameters

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base model's tokenizer."""
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(self.folder)
        return tokenizer

    @cached_property
    def serving_base(self) -> tuple["SharedBase", float]:
        """The base model on which adapters are served, and the quantization error ||W' - W|| / ||W|| of this one.

        The first value is this base, unless this base is quantized. Then it is the unquantized model, which the first
        access reads into host memory.
        """
        if not self.is_quantized:
            return self, 0.0
        original = _read_model(self.folder, self.number_formats)
        error = nf4.quantization_error(self.linear_layers, find_linear_layers(original))

        def load(_: Path, device: Device) -> PreTrainedModel:
            return nf4.offload_to_host(original, device)

        serving = SharedBase(self.folder, self.number_formats, load=load)
        serving.on_pass = lambda: self.on_pass()
        return serving, error

    def logits(self, packed: PackedBatch, adapters: Sequence[ActiveAdapter]) -> Tensor:
        """Compute the logits of the target tokens.

        The language model's head, the most expensive layer of a small base, runs on the targets only. What some
        families do after it, such as a scale, is a part of the model's own forward pass.

        Args:
            packed: Windows of one or several owners, with M targets.
            adapters: The adapter of each owner. Empty for the base model without adapters.

        Returns:
            ``[M, vocabulary]`` in float32.
        """
        logits = self.head.logits(self._run_blocks(packed, adapters))
        self.on_pass()
        return logits

    def losses(self, packed: PackedBatch, adapters: Sequence[ActiveAdapter]) -> Tensor:
        """Compute the cross-entropy of each target token, with the logits of few tokens at a time.

        Args:
            packed: Windows of one or several owners, with M targets.
            adapters: The adapter of each owner. Empty for the base model without adapters.

        Returns:
            ``[M]``, in nats, not weighted, differentiable once.
        """
        # The workers of a sharded base gather the head's weights together, however many targets each of them has.
        parts = self.head.count_parts(self.max_tokens_per_pass) if self.is_sharded else None
        losses = self.head.losses(self._run_blocks(packed, adapters), packed.targets, parts)
        self.on_pass()
        return losses

    def pack(self, owners: Sequence[Sequence[Window]]) -> PackedBatch:
        """Return the windows of each of the ``owners`` as one row of tokens on the base model's device."""
        return packing.pack_windows(owners, self.device)

    def _select_layers(self, recipe: Recipe) -> dict[str, nn.Linear]:
        wanted = recipe.target_modules
        if wanted is None:
            return self.linear_layers
        available = {name.rpartition(".")[2] for name in self.linear_layers}
        missing = sorted(set(wanted) - available)
        if missing:
            raise InvalidInput(
                f"the base model has no linear layer {missing[0]!r}: target_modules may name "
                f"{', '.join(sorted(available))}"
            )
        return {name: layer for name, layer in self.linear_layers.items() if name.rpartition(".")[2] in wanted}

    def _run_blocks(self, packed: PackedBatch, adapters: Sequence[ActiveAdapter]) -> Tensor:
        """Return what the blocks compute for the tokens before the targets, ``[M, hidden]``."""
        with self._acting((packed.sizes, adapters) if adapters else None):
            return self.head.run_blocks(
                packed.predictors,
                input_ids=packed.tokens,
                position_ids=packed.positions,
                pack=packed,
                attention_dtype=self.number_formats.attention_dtype,
            )

    @contextmanager
    def _acting(self, active: _Active | None) -> Iterator[None]:
        """Let adapters act on the model within the block."""
        before, self._active = self._active, active
        try:
            yield
        finally:  # also when the device's memory is full
            self._active = before

    def _run_layer(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run one layer of the blocks, so that the backward pass runs it again if it is to."""
        if not (self.recomputes and torch.is_grad_enabled()):
            return forward(*args, **kwargs)
        active = self._active
        return checkpoint(
            forward,
            *args,
            use_reentrant=False,
            preserve_rng_state=False,  # nothing is random
            context_fn=lambda: (nullcontext(), self._acting(active)),
            determinism_check="none" if self.is_sharded else "default",  # between passes, each holds a part of weights
            **kwargs,
        )

    @torch.no_grad()
    def _check_packing(self) -> None:
        """Compare two owners in one pass with each alone in the model's own attention.

        Some model families have a kind of attention of their own, or layers in which tokens see each other.
        """
        text = self.tokenizer(_CHECKED_TEXT, add_special_tokens=False).input_ids
        windows = [Window.of(tokens, (0.0, *[1.0] * (len(tokens) - 1))) for tokens in (text[:7], text[7:])]
        adapters = [self.init_adapter(Recipe(rank=4, seed=seed)) for seed in (1, 2)]
        rng = torch.Generator().manual_seed(0)
        for factors in (each for adapter in adapters for each in adapter.values()):
            factors.b.copy_(torch.randn(factors.b.shape, generator=rng) * _CHECKED_UPDATE)
        alone = [torch.tensor(window.tokens[None], device=self.device) for window in windows]
        expected = torch.cat(
            [self._run_alone(tokens, adapter)[:-1] for tokens, adapter in zip(alone, adapters, strict=True)]
        )
        self._model.set_attn_implementation(_ATTENTION)
        found = self.logits(self.pack([[window] for window in windows]), adapters)
        tolerance = 1e-3 if self.number_formats.dtype is torch.float32 else 0.1  # SmolLM2-135M in bfloat16: 0.025
        if not (found - expected).norm() <= tolerance * expected.norm():  # NaN is refused too
            raise InvalidInput(
                f"base model {self._model.name_or_path!r} ({type(self._model).__name__}) computes its attention in a "
                "model-specific way, which consolidation does not support: choose another base model"
            )

    def _run_alone(self, tokens: Tensor, adapter: ActiveAdapter) -> Tensor:
        """Return the logits of all ``tokens``, ``[L, vocabulary]``, as the model itself computes them."""
        with self._acting(([tokens.numel()], [adapter])):
            logits: Tensor = self._model(input_ids=tokens, use_cache=False).logits[0].float()
        return logits

    def _add_updates(self, name: str, _layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor | None:
        """Forward hook of the linear layer ``name``."""
        if self._active is None:
            return None
        sizes, adapters = self._active
        updates = [adapter.get(name) for adapter in adapters]
        factors = [update if isinstance(update, Factors) else None for update in updates]
        if any(factors):
            output = add_lora_updates(output, inputs[0], sizes, factors)
        if any(isinstance(update, DoraLayer) for update in updates):
            rows = zip(updates, *(torch.split(tensor, list(sizes), 1) for tensor in (inputs[0], output)), strict=True)
            output = torch.cat(
                [update.output(x, y) if isinstance(update, DoraLayer) else y for update, x, y in rows], 1
            )
        return output


def _load_unsharded(folder: Path, device: Device) -> PreTrainedModel:
    return _read_model(folder, device).to(device.torch_device)


def _read_model(folder: Path, device: Device) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=device.dtype)
    return model


def _load_sharded(folder: Path, device: Device) -> PreTrainedModel:
    """Read this worker's part of the weights. DeepSpeed gathers a full layer only while that layer computes."""
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3},
        "bf16": {"enabled": device.dtype is torch.bfloat16},  # else DeepSpeed makes every parameter float32
    }
    sharded_loading = HfDeepSpeedConfig(config)  # while this object lives, transformers loads models in parts
    model = _read_model(folder, device).requires_grad_(False)
    del sharded_loading
    initialize_engine(model, config)
    return model
