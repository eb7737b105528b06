"""The beginning of one tenant's session: its adapter, and what its strategy may ask of the base model."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from looper.jobs.consolidation.adapters.adalora import AdaLora
from looper.jobs.consolidation.adapters.dora import Dora
from looper.jobs.consolidation.adapters.lora import Factors, Lora, rank_of, truncate
from looper.jobs.consolidation.adapters.parametrization import Parametrization, PlainLora
from looper.jobs.consolidation.data.encode import Window
from looper.jobs.consolidation.data.preference import Contrast
from looper.jobs.consolidation.evaluation.teacher_forcing import judge_each
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.strategies import fisher
from looper.jobs.consolidation.strategies.registry import check_method, parse
from looper.jobs.consolidation.strategies.strategy import State, StrategyContext
from looper.jobs.consolidation.training.member import TrainingMember
from looper.jobs.consolidation.training.schedule import total_steps
from looper.platform.domain.consolidation import Recipe
from looper.platform.domain.errors import InvalidInput

LORA_PLUS_RATIO = 16.0
"""Learning rate of b over that of a: Hayou et al., 2024 (arXiv 2402.12354)."""


def begin(
    base: SharedBase,
    recipe: Recipe,
    windows: Sequence[Window],
    start: Lora | None,
    past: State,
    pairs: Sequence[Contrast] = (),
) -> TrainingMember:
    """A tenant on ``base``, ready to learn ``windows`` from the version ``start``, whose strategy remembers ``past``.

    ``pairs`` are learned beside them, with the weight that the recipe gives its preference loss.

    Raises InvalidInput if recipe, base and start do not fit each other.
    """
    fresh = base.fresh(recipe)
    check_method(recipe.strategy, recipe.method)
    if recipe.method == "dora" and base.sharded:
        raise InvalidInput(
            "method 'dora' needs whole weights of the base for their norms, so it does not go with "
            "consolidation.sharded: turn that off, or choose method 'lora'"
        )
    strategy = parse(recipe.strategy)
    lora = fresh if strategy.grows else initial(fresh, start)
    parametrised = partial(_parametrised, recipe, lora, base.linear)
    return TrainingMember(recipe, _open(base, recipe, lora, start, windows), strategy, past, parametrised, pairs)


def _parametrised(recipe: Recipe, lora: Lora, linear: Mapping[str, nn.Linear], steps: int) -> Parametrization:
    match recipe.method:
        case "dora":
            return Dora(lora, linear)
        case "adalora":
            return AdaLora(recipe, lora, linear, steps)
        case "lora+":
            return PlainLora(lora, LORA_PLUS_RATIO)
        case "lora" | "rslora" | "qlora":
            return PlainLora(lora, 1.0)


def initial(fresh: dict[str, Factors], start: Lora | None) -> dict[str, Factors]:
    """``fresh`` with the update of ``start``: exactly, or truncated to the rank of ``fresh`` where that is smaller."""
    if start is None:
        return fresh
    if start.keys() != fresh.keys():
        raise InvalidInput(
            "the current version's layers are not those of this base and recipe: consolidate with the target_modules "
            "that it was trained with"
        )
    rank = rank_of(fresh)
    if rank_of(start) > rank:
        start, _ = truncate(start, rank)
    with torch.no_grad():
        for layer, factors in fresh.items():
            old = start[layer]
            factors.a[: old.rank] = old.a
            factors.b[:, : old.rank] = old.b * (old.scale / factors.scale)
    return fresh


def _open(
    base: SharedBase, recipe: Recipe, lora: Lora, start: Lora | None, windows: Sequence[Window]
) -> StrategyContext:
    def losses(acting: Lora, asked: Sequence[Window]) -> list[float]:
        judged = judge_each(base, acting, asked)
        return [each.loss / sum(window.weights) for each, window in zip(judged, asked, strict=True)]

    def logits(acting: Lora, asked: Sequence[Window]) -> Tensor:
        return base.logits(base.pack([asked]), [acting])

    return StrategyContext(
        lora=lora,
        start=start,
        windows=windows,
        steps=total_steps(len(windows), recipe),
        seed=recipe.seed,
        importance=partial(fisher.of_updates, base),
        factor_importance=partial(fisher.of_factors, base),
        losses=losses,
        logits=logits,
    )
