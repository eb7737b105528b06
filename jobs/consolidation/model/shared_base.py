"""One frozen base model in memory, for all the adapters that are trained on it."""

import math
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path

import deepspeed
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations import HfDeepSpeedConfig

from looper.jobs import basemodel
from looper.jobs.consolidation.adapters.lora import Factors
from looper.jobs.consolidation.adapters.peft_layers import Acting, DoraLayer
from looper.jobs.consolidation.data import packing as pack
from looper.jobs.consolidation.data.encode import Window
from looper.jobs.consolidation.data.packing import Pack
from looper.jobs.consolidation.model import grouped_lora as grouped
from looper.jobs.consolidation.model import nf4
from looper.jobs.consolidation.model.device import Device
from looper.platform.domain.consolidation import Recipe
from looper.platform.domain.errors import InvalidInput

_ATTENTION = "looper_packed"
AttentionInterface.register(_ATTENTION, pack.attend)


class SharedBase:
    """The base model of a folder that ``looper.jobs.basemodel.prepare`` returned, frozen."""

    def __init__(
        self,
        folder: Path,
        device: Device,
        *,
        sharded: bool = False,
        load: Callable[[Path, Device], PreTrainedModel] | None = None,
    ) -> None:
        """``sharded``: each worker of a trainer holds a part of the base, by DeepSpeed's ZeRO at stage 3.

        Whatever computes with a sharded base takes all workers, each with the same number of passes. ``load`` brings
        the weights into memory in another way, such as ``nf4.quantised``.
        """
        self._folder, self._device = folder, device
        self.quantised = load is nf4.quantised
        if sharded and self.quantised:
            raise InvalidInput(
                "method 'qlora' does not go with consolidation.sharded: turn that off, or choose method 'lora'"
            )
        self.sharded = sharded
        self.device = device.place
        self.tokens_at_once = device.tokens_at_once
        self.revision = basemodel.revision(folder)
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
        model = (load or (_sharded if sharded else _whole))(folder, device)
        model.requires_grad_(False).eval()  # without dropout, so that a training step is a function of the recipe
        self._model: PreTrainedModel = model
        self.linear = _linear_layers(model)
        self._working: tuple[Sequence[int], Sequence[Acting]] | None = None
        self._check_packing()
        for name, layer in self.linear.items():
            layer.register_forward_hook(partial(self._add_updates, name))

    def fresh(self, recipe: Recipe) -> dict[str, Factors]:
        """A new adapter as PEFT initialises one, from ``recipe.seed``; its update is zero.

        rslora's scale is alpha / sqrt(rank), so that gradients do not shrink with the rank: Kalajdzievski, 2023 (arXiv
        2312.03732).

        Raises InvalidInput if the base lacks a layer that the recipe names.
        """
        rng = torch.Generator().manual_seed(recipe.seed)
        lora = {}
        scale = recipe.alpha / (math.sqrt(recipe.rank) if recipe.method == "rslora" else recipe.rank)
        for name, layer in self._chosen(recipe).items():
            bound = layer.in_features**-0.5  # PEFT's kaiming_uniform_ with a = sqrt(5)
            a = torch.empty(recipe.rank, layer.in_features).uniform_(-bound, bound, generator=rng)
            b = torch.zeros(layer.out_features, recipe.rank)
            lora[name] = Factors(nn.Parameter(a.to(self.device)), nn.Parameter(b.to(self.device)), scale)
        return lora

    @cached_property
    def served(self) -> tuple["SharedBase", float]:
        """The base as adapters are served on, and how far from its weights these are, ||W' - W|| / ||W||.

        That is this one, but for a quantised one: then the whole is read, into the host's memory.
        """
        if not self.quantised:
            return self, 0.0
        whole = _read(self._folder, self._device)
        rounding = nf4.rounding(self.linear, _linear_layers(whole))
        return SharedBase(self._folder, self._device, load=lambda _, device: nf4.on_host(whole, device)), rounding

    def logits(self, packed: Pack, adapters: Sequence[Acting]) -> Tensor:
        """``[M, vocabulary]`` in float32 for the targets of ``packed``, each owner with its own of ``adapters``.

        Without ``adapters``, the bare base's. The language model's head, the most expensive layer of a small base,
        works on the targets only.
        """
        self._working = (packed.sizes, adapters) if adapters else None
        hidden = self._model.base_model(
            input_ids=packed.tokens, position_ids=packed.positions, use_cache=False, pack=packed
        ).last_hidden_state
        self._working = None
        logits: Tensor = self._model.get_output_embeddings()(hidden[0].index_select(0, packed.predictors))
        return logits.float()

    def losses(self, packed: Pack, adapters: Sequence[Acting]) -> Tensor:
        """``[M]``, the cross-entropy of each target in nats, unweighted."""
        return cross_entropy(self.logits(packed, adapters), packed.targets, reduction="none")

    def pack(self, owners: Sequence[Sequence[Window]]) -> Pack:
        return pack.pack(owners, self.device)

    def _chosen(self, recipe: Recipe) -> dict[str, nn.Linear]:
        wanted = recipe.target_modules
        if wanted is None:
            return self.linear
        known = {name.rpartition(".")[2] for name in self.linear}
        missing = sorted(set(wanted) - known)
        if missing:
            raise InvalidInput(
                f"the base model has no linear layer {missing[0]!r}: target_modules may name {', '.join(sorted(known))}"
            )
        return {name: layer for name, layer in self.linear.items() if name.rpartition(".")[2] in wanted}

    @torch.no_grad()
    def _check_packing(self) -> None:
        """Some families change attention, or their logits after the head, in ways that packed windows would miss."""
        model, tails = self._model, ((4, 5), (6, 7, 8))
        windows = [Window((1, 2, 3, *tail), (0.0, 1.0, *[1.0] * (1 + len(tail))), ()) for tail in tails]
        plain = [model(torch.tensor([w.tokens], device=self.device), use_cache=False).logits[0, :-1] for w in windows]
        whole = torch.cat(plain).float()
        model.set_attn_implementation(_ATTENTION)
        rounding = 0.02 if self._device.dtype is torch.float32 else 0.1  # SmolLM2-135M in bfloat16: 0.025
        if (self.logits(self.pack([windows]), ()) - whole).norm() > rounding * whole.norm():
            raise InvalidInput(
                f"base model {model.name_or_path!r} ({type(model).__name__}) computes its attention or its logits in a "
                "way of its own, which consolidation does not support: choose another base"
            )

    def _add_updates(self, name: str, _layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor | None:
        if self._working is None:
            return None
        sizes, adapters = self._working
        updates = [adapter.get(name) for adapter in adapters]
        factors = [each if isinstance(each, Factors) else None for each in updates]
        if any(factors):
            output = grouped.add_updates(output, inputs[0], sizes, factors)
        if any(isinstance(each, DoraLayer) for each in updates):
            rows = zip(updates, *(torch.split(each, list(sizes), 1) for each in (inputs[0], output)), strict=True)
            output = torch.cat([each.output(x, y) if isinstance(each, DoraLayer) else y for each, x, y in rows], 1)
        return output


def _whole(folder: Path, device: Device) -> PreTrainedModel:
    return _read(folder, device).to(device.place)


def _read(folder: Path, device: Device) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=device.dtype)
    return model


def _sharded(folder: Path, device: Device) -> PreTrainedModel:
    """Each worker reads and keeps its part; DeepSpeed gathers a layer's whole while that layer computes."""
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3},
        "bf16": {"enabled": device.dtype is torch.bfloat16},  # else DeepSpeed makes every parameter float32
    }
    in_force = HfDeepSpeedConfig(config)  # for as long as the object lives, transformers loads in parts
    model = _read(folder, device).requires_grad_(False)
    del in_force
    deepspeed.initialize(model=model, config=config)
    return model


def _linear_layers(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """The linear layers in the blocks, by name."""
    head = model.get_output_embeddings()
    return {name: each for name, each in model.named_modules() if isinstance(each, nn.Linear) and each is not head}
