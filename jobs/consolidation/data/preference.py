"""Preference pairs (two turns after the same prefix, one preferred) as windows, and the preference loss on them.

The loss is the odds-ratio term of ORPO (Hong et al., 2024, arXiv 2403.07691): with P = exp(mean log p) over a turn's
tokens and odds = P / (1 - P), the margin of a pair is log odds(chosen) - log odds(rejected), and its loss -log
sigmoid(margin). The trainer adds the loss in each step, and measures the margins at the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor
from torch.nn.functional import softplus

from looper.jobs.consolidation.adapters.peft_layers import ActiveAdapter
from looper.jobs.consolidation.data.packing import packed_size, split_into_passes
from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.data.window_table import WindowTable
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.platform.domain.scores import Margins

MAX_MEASURED_TOKENS = 2_048
"""Maximum tokens of the pairs whose margins are measured: a quarter of a minute on two cores, before and after."""

_MIN_LOSS = 1e-6
"""A mean cross-entropy below this is rounding in float32, and at 0 the odds would be infinite."""


@dataclass(frozen=True)
class PairWindows:
    """A pair as two windows with the same prefix. The tokens of the two turns are the targets."""

    chosen: Window
    """The window with the preferred turn."""
    rejected: Window
    """The window with the other turn."""

    @property
    def windows(self) -> list[Window]:
        """Both windows, the preferred one first."""
        return [self.chosen, self.rejected]

    def margin(self, losses: Tensor) -> Tensor:
        """Return the margin, given ``losses``: the cross-entropies of the targets of both ``windows``."""
        chosen, rejected = torch.split(losses, [window.targets for window in self.windows])
        return _log_odds(chosen.mean()) - _log_odds(rejected.mean())

    def loss(self, losses: Tensor) -> Tensor:
        """Return the preference loss, given ``losses`` as in ``margin``."""
        return softplus(-self.margin(losses))


def _log_odds(loss: Tensor) -> Tensor:
    """Return log(P / (1 - P)) for P = exp(-loss), without the rounding of 1 - P and the overflow of 1 / P."""
    loss = loss.clamp(min=_MIN_LOSS)
    return -loss - torch.log(-torch.expm1(-loss))


@dataclass(frozen=True)
class EncodedPairs:
    """The encoded pairs of a consolidation."""

    usable: list[PairWindows]
    """Pairs to train on."""
    left_out: dict[str, int]
    """Number of pairs that cannot be used, by reason."""


def pairs_of(table: WindowTable) -> EncodedPairs:
    """Return the pairs in a table that ``encode_pairs`` made."""
    windows = table.windows
    pairs = [PairWindows(chosen, rejected) for chosen, rejected in zip(windows[::2], windows[1::2], strict=True)]
    return EncodedPairs(pairs, table.left_out)


def measure_margins(
    base: SharedBase, before: ActiveAdapter | None, after: ActiveAdapter, pairs: EncodedPairs
) -> Margins:
    """Measure how training changed the margins of the pairs that it was trained on.

    Args:
        base: The shared base model.
        before: The adapter that training started from; None for the bare base.
        after: The trained adapter.
        pairs: The encoded pairs.

    Returns:
        The mean margins before and after, over a fixed random sample of the pairs.
    """
    measured = _sample_pairs(pairs.usable)
    return Margins(
        pairs=len(pairs.usable),
        left_out=pairs.left_out,
        before=_mean_margin(base, before, measured),
        after=_mean_margin(base, after, measured),
    )


def _sample_pairs(pairs: Sequence[PairWindows]) -> list[PairWindows]:
    """Sample pairs of at most ``MAX_MEASURED_TOKENS`` tokens, at least one if there is any, with a fixed seed."""
    picked: list[PairWindows] = []
    size = 0
    for each in Random(0).sample(pairs, len(pairs)):
        size += packed_size(each.windows)
        if picked and size > MAX_MEASURED_TOKENS:
            break
        picked.append(each)
    return picked


@torch.no_grad()
def _mean_margin(base: SharedBase, lora: ActiveAdapter | None, pairs: Sequence[PairWindows]) -> float | None:
    found: list[float] = []
    for part in split_into_passes([], base.max_tokens_per_pass, [each.windows for each in pairs]):
        packed = base.pack(list(part.values()))
        losses = base.losses(packed, [] if lora is None else [lora] * len(part))
        for number, each in zip(part, torch.split(losses, list(packed.owner_targets)), strict=True):
            found.append(float(pairs[number].margin(each)))
    return sum(found) / len(found) if found else None
