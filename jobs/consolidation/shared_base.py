"""One frozen base model in memory, for all the adapters that are trained on it."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

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

from looper.jobs import basemodel
from looper.jobs.consolidation import grouped, pack
from looper.jobs.consolidation.device import Device
from looper.jobs.consolidation.encode import Window
from looper.jobs.consolidation.lora import Factors, Lora
from looper.jobs.consolidation.pack import Pack
from looper.platform.domain.consolidation import Recipe
from looper.platform.domain.errors import InvalidInput

_ATTENTION = "looper_packed"
AttentionInterface.register(_ATTENTION, pack.attend)


class SharedBase:
    """The base model of a folder that ``looper.jobs.basemodel.prepare`` returned, frozen."""

    def __init__(self, folder: Path, device: Device) -> None:
        self.device = device.place
        self.tokens_at_once = device.tokens_at_once
        self.revision = basemodel.revision(folder)
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=device.dtype).to(device.place)
        model.requires_grad_(False)
        model.eval()  # no dropout: a training step is a function of the recipe
        self._model: PreTrainedModel = model
        self.linear = _linear_layers(model)
        self._working: tuple[Sequence[int], Sequence[Lora]] | None = None
        self._check_packing()
        for name, layer in self.linear.items():
            layer.register_forward_hook(partial(self._add_updates, name))

    def fresh(self, recipe: Recipe) -> dict[str, Factors]:
        """A new adapter as PEFT initialises one, from ``recipe.seed``; its update is zero.

        Raises InvalidInput if the base lacks a layer that the recipe names.
        """
        rng = torch.Generator().manual_seed(recipe.seed)
        lora = {}
        for name, layer in self._chosen(recipe).items():
            bound = layer.in_features**-0.5  # PEFT's kaiming_uniform_ with a = sqrt(5)
            a = torch.empty(recipe.rank, layer.in_features).uniform_(-bound, bound, generator=rng)
            b = torch.zeros(layer.out_features, recipe.rank)
            lora[name] = Factors(
                nn.Parameter(a.to(self.device)), nn.Parameter(b.to(self.device)), recipe.alpha / recipe.rank
            )
        return lora

    def logits(self, packed: Pack, loras: Sequence[Lora]) -> Tensor:
        """``[M, vocabulary]`` in float32 for the targets of ``packed``, each owner with its own of ``loras``.

        Without ``loras``, the bare base's. The language model's head, the most expensive layer of a small base, works
        on the targets only.
        """
        self._working = (packed.sizes, loras) if loras else None
        hidden = self._model.base_model(
            input_ids=packed.tokens, position_ids=packed.positions, use_cache=False, pack=packed
        ).last_hidden_state
        self._working = None
        logits: Tensor = self._model.get_output_embeddings()(hidden[0].index_select(0, packed.predictors))
        return logits.float()

    def losses(self, packed: Pack, loras: Sequence[Lora]) -> Tensor:
        """``[M]``, the cross-entropy of each target in nats, unweighted."""
        return cross_entropy(self.logits(packed, loras), packed.targets, reduction="none")

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
        if (self.logits(self.pack([windows]), ()) - whole).norm() > 0.02 * whole.norm():
            raise InvalidInput(
                f"base model {model.name_or_path!r} ({type(model).__name__}) computes its attention or its logits in a "
                "way of its own, which consolidation does not support: choose another base"
            )

    def _add_updates(self, name: str, _layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor | None:
        if self._working is None:
            return None
        sizes, loras = self._working
        factors = [lora.get(name) for lora in loras]
        if not any(factors):
            return None
        return grouped.add_updates(output, inputs[0], sizes, factors)


def _linear_layers(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """The linear layers in the blocks, by name."""
    head = model.get_output_embeddings()
    return {name: each for name, each in model.named_modules() if isinstance(each, nn.Linear) and each is not head}
