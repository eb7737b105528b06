"""A language model's head apart from its blocks, so that losses need the logits of few tokens at a time.

The logits are the largest tensor of a pass: those of 8,192 tokens over a vocabulary of 128,000 take 4 GiB, and the loss
needs several of that size. ``SharedBase`` uses it for all logits and losses.
"""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from looper.platform.domain.errors import InvalidInput

MAX_LOGITS = 2**26
"""Logits that exist at once: 256 MiB in float32. With a vocabulary of 128,000 these are 523 tokens, enough for a GPU to
compute the head at full speed; the smaller passes of a CPU are one part."""


class LanguageModelHead:
    """What a model computes after its blocks, by its own code. Some families scale their logits, for example."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Take the model apart. It works as before.

        Args:
            model: The model. Its parameters do not require gradients.

        Raises:
            InvalidInput: If the model's blocks are no module of their own.
        """
        if model.base_model is model:
            raise InvalidInput(
                f"base model {model.name_or_path!r} ({type(model).__name__}) does not keep its blocks apart from its "
                "head, which consolidation needs: choose another base model"
            )
        self.vocab_size: int = model.get_output_embeddings().out_features
        self._model = model
        self._blocks_output: ModelOutput | None = None
        model.base_model.register_forward_hook(self._keep_output)
        self._given = _GivenBlocks()
        self._after_blocks = copy.copy(model)  # the same head, after blocks that are given
        self._after_blocks.__dict__ |= {
            "_modules": {**model._modules, model.base_model_prefix: self._given},
            "_forward_pre_hooks": {},  # DeepSpeed's, which expect that the blocks run
            "_forward_hooks": {},
        }
        self._after_blocks.__dict__.pop("forward", None)  # accelerate's for offloaded weights, bound to ``model``

    def run_blocks(self, predictors: Tensor, **inputs: Any) -> Tensor:
        """Run the model up to its head.

        Args:
            predictors: Indices of the tokens of which the results are wanted, ``[M]``.
            inputs: Arguments of the model.

        Returns:
            ``[M, hidden]``.
        """
        try:
            # Through the whole model, since DeepSpeed counts its calls; but with a head for no token.
            self._model(**inputs, use_cache=False, logits_to_keep=predictors[:0])
            assert self._blocks_output is not None
            hidden: Tensor = self._blocks_output.last_hidden_state
            return hidden[0].index_select(0, predictors)
        finally:  # also when the device's memory is full
            self._blocks_output = None

    def logits(self, hidden: Tensor) -> Tensor:
        """Compute all logits at once.

        Args:
            hidden: What ``run_blocks`` returned.

        Returns:
            ``[M, vocabulary]`` in float32.
        """
        logits: Tensor = self._after_blocks(inputs_embeds=hidden[None], use_cache=False).logits[0].float()
        return logits

    def losses(self, hidden: Tensor, targets: Tensor, parts: int | None = None) -> Tensor:
        """Compute the cross-entropy of each target, with the logits of few tokens at a time.

        Args:
            hidden: What ``run_blocks`` returned.
            targets: Token ids, ``[M]``.
            parts: How often to run the head; None for as few times as ``MAX_LOGITS`` allows.

        Returns:
            ``[M]``, in nats, differentiable in ``hidden`` once.
        """
        losses: Tensor = _Losses.apply(hidden, targets, self.logits, parts or self.count_parts(len(targets)))  # type: ignore[no-untyped-call]
        return losses

    def count_parts(self, targets: int) -> int:
        """Return how often the head runs for so many ``targets``."""
        return max(1, math.ceil(targets * self.vocab_size / MAX_LOGITS))

    def _keep_output(self, _blocks: nn.Module, _inputs: object, output: ModelOutput) -> None:
        self._blocks_output, self._given.output_class = output, type(output)


class _Losses(torch.autograd.Function):
    """Cross-entropies with their gradients, computed together: the loss of a token depends on no other token's state.

    So the backward pass only scales the gradients, and nothing is computed twice.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, logits: Callable[[Tensor], Tensor], parts: int) -> Tensor:
        losses: list[Tensor] = []
        gradients: list[Tensor] = []
        for rows, wanted in _split(hidden, targets, parts):
            with torch.set_grad_enabled(ctx.needs_input_grad[0]):
                rows.requires_grad_(ctx.needs_input_grad[0])
                loss = cross_entropy(logits(rows), wanted, reduction="none")
                losses.append(loss.detach())
                if ctx.needs_input_grad[0]:
                    gradients += torch.autograd.grad(loss.sum(), rows)
            del loss  # before the next part
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (gradients,) = ctx.saved_tensors
        return gradients * grads[0][:, None].to(gradients.dtype), None, None, None


def _split(hidden: Tensor, targets: Tensor, parts: int) -> Iterator[tuple[Tensor, Tensor]]:
    for rows, wanted in zip(hidden.tensor_split(parts), targets.tensor_split(parts), strict=True):
        yield rows.detach(), wanted


class _GivenBlocks(nn.Module):
    """Stands for the blocks of a model. Their result is what they are given."""

    output_class: type[ModelOutput]
    """What the model's own blocks return."""

    def forward(self, inputs_embeds: Tensor, **_: Any) -> ModelOutput:
        return self.output_class(last_hidden_state=inputs_embeds)
