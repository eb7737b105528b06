"""Pairs of turns, one preferred to the other after the same beginning, and the loss that tells them apart.

The odds-ratio term of ORPO (Hong et al., 2024, arXiv 2403.07691): with P = exp(mean log p) over a turn's tokens and
odds = P / (1 - P), the margin of a pair is log odds(chosen) - log odds(rejected), and its loss -log sigmoid(margin).
"""

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor
from torch.nn.functional import softplus
from transformers import PreTrainedTokenizerBase

from looper.jobs.consolidation.adapters.peft_layers import Acting
from looper.jobs.consolidation.data.encode import Window, encode
from looper.jobs.consolidation.data.packing import divide, packed_size
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.synthesis.stages.preference_pairs import Pair
from looper.platform.domain.consolidation import Margins
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.example import Example, Turn

MEASURED_TOKENS = 2_048
"""Of the pairs whose margins are told, at most: on two cores a quarter of a minute for both sides."""

_LEAST_LOSS = 1e-6
"""Below that a mean cross-entropy in float32 is rounding, and at 0 the odds would be infinite."""


@dataclass(frozen=True)
class Contrast:
    """A pair as windows that part where the agent's turns do; the tokens of these turns are the targets."""

    chosen: Window
    rejected: Window

    @property
    def windows(self) -> list[Window]:
        return [self.chosen, self.rejected]

    def margin(self, losses: Tensor) -> Tensor:
        """The margin, given the cross-entropies of the targets of both ``windows``."""
        chosen, rejected = torch.split(losses, [window.targets for window in self.windows])
        return _log_odds(chosen.mean()) - _log_odds(rejected.mean())

    def loss(self, losses: Tensor) -> Tensor:
        return softplus(-self.margin(losses))


def _log_odds(loss: Tensor) -> Tensor:
    """log(P / (1 - P)) for P = exp(-loss), without the rounding of 1 - P and the overflow of 1 / P."""
    loss = loss.clamp(min=_LEAST_LOSS)
    return -loss - torch.log(-torch.expm1(-loss))


@dataclass(frozen=True)
class Contrasts:
    """What became of the pairs of a consolidation."""

    usable: list[Contrast]
    left_out: dict[str, int]
    """How many, by reason."""


def contrasts(pairs: Iterable[Pair], tokenizer: PreTrainedTokenizerBase, max_seq_length: int) -> Contrasts:
    """``pairs`` as windows of at most ``max_seq_length`` tokens; what cannot be is left out and spoils nothing else."""
    found = [_contrast(pair, tokenizer, max_seq_length) for pair in pairs]
    return Contrasts(
        [each for each in found if isinstance(each, Contrast)],
        dict(Counter(each for each in found if isinstance(each, str))),
    )


def _contrast(pair: Pair, tokenizer: PreTrainedTokenizerBase, max_seq_length: int) -> Contrast | str:
    """As windows, or why not."""
    turns = (pair.chosen, pair.rejected)
    if not all(turn.content.strip() or turn.tool_calls for turn in turns):
        return "empty"
    try:
        chosen, rejected = (_window(pair, turn, tokenizer) for turn in turns)
    except InvalidInput:
        return "refused by the chat template"
    if chosen.tokens == rejected.tokens:
        return "identical"
    if max(len(chosen), len(rejected)) > max_seq_length:  # cropped, the two would begin differently
        return "longer than max_seq_length"
    return Contrast(chosen, rejected)


def _window(pair: Pair, turn: Turn, tokenizer: PreTrainedTokenizerBase) -> Window:
    example = Example(
        id=f"{pair.chosen_from} against {pair.rejected_from}",
        trajectory_id=pair.chosen_from,
        task_id=pair.task_id,
        turns=(*pair.prefix, turn.model_copy(update={"weight": 1.0})),
        tools=pair.tools,
    )
    (window,) = encode(example, tokenizer, sys.maxsize)
    return window


def margins(base: SharedBase, before: Acting | None, after: Acting, contrasts: Contrasts) -> Margins:
    """What training from ``before``, or from the bare base, to ``after`` did to the pairs it was trained on."""
    measured = _few(contrasts.usable)
    return Margins(
        pairs=len(contrasts.usable),
        left_out=contrasts.left_out,
        before=_mean_margin(base, before, measured),
        after=_mean_margin(base, after, measured),
    )


def _few(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """Of at most ``MEASURED_TOKENS`` tokens, one at least if there is any; picked at random, but always the same."""
    picked: list[Contrast] = []
    size = 0
    for each in Random(0).sample(contrasts, len(contrasts)):
        size += packed_size(each.windows)
        if picked and size > MEASURED_TOKENS:
            break
        picked.append(each)
    return picked


@torch.no_grad()
def _mean_margin(base: SharedBase, lora: Acting | None, contrasts: Sequence[Contrast]) -> float | None:
    found: list[float] = []
    for part in divide([], base.tokens_at_once, [each.windows for each in contrasts]):
        packed = base.pack(list(part.values()))
        losses = base.losses(packed, [] if lora is None else [lora] * len(part))
        for number, each in zip(part, torch.split(losses, list(packed.owner_targets)), strict=True):
            found.append(float(contrasts[number].margin(each)))
    return sum(found) / len(found) if found else None
