"""Set up a training session: its initial adapter, its parametrization and its strategy's view of the base model.

Called when a consolidation joins a trainer (``joining``), and by benchmarks that train without a trainer.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from looper.jobs.consolidation.adapters.adalora import AdaLora
from looper.jobs.consolidation.adapters.dora import Dora
from looper.jobs.consolidation.adapters.lora import Factors, Lora, adapter_rank, truncate_rank
from looper.jobs.consolidation.adapters.parametrization import Parametrization, PlainLora
from looper.jobs.consolidation.data.preference import PairWindows
from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.evaluation.teacher_forcing import evaluate_windows
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.strategies import fisher
from looper.jobs.consolidation.strategies.registry import build_strategy, check_method
from looper.jobs.consolidation.strategies.strategy import StrategyContext, StrategyState
from looper.jobs.consolidation.training.schedule import epoch_count, once_per_epoch, total_steps
from looper.jobs.consolidation.training.session import TrainingSession
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.recipe import Recipe

LORA_PLUS_RATIO = 16.0
"""Learning rate of ``b`` divided by that of ``a`` in LoRA+: Hayou et al., 2024 (arXiv 2402.12354)."""


def start_session(
    base: SharedBase,
    recipe: Recipe,
    windows: Sequence[Window],
    start: Lora | None,
    past: StrategyState,
    pairs: Sequence[PairWindows] = (),
    *,
    once: Sequence[Window] = (),
    beginning: Lora | None = None,
) -> TrainingSession:
    """Set up a training session at its first step.

    Args:
        base: The base model.
        recipe: The recipe. The learning rate that it does not give is chosen for the base model.
        windows: New windows to train on in each epoch.
        start: The version to start from; None in an instance's first session.
        past: Strategy state that belongs to ``start``.
        pairs: Preference pairs, which the recipe's preference loss weighs.
        once: New windows to train on in one epoch only.
        beginning: The adapter that an instance's first session begins from, instead of a random one. The strategy does
            not see it as an earlier version: nothing in it is protected, and one that ``grows`` trains it as its first
            block.

    Returns:
        The session.

    Raises:
        InvalidInput: If recipe, base and start do not fit together.
    """
    if recipe.learning_rate is None:
        recipe = recipe.resolve_learning_rate(base.parameters)
    new_adapter = base.init_adapter(recipe)
    check_method(recipe.strategy, recipe.method)
    if recipe.method == "dora" and base.is_sharded:
        raise InvalidInput(
            "method 'dora' computes norms of the base model's full weights, so it does not work with "
            "consolidation.sharded: turn that off, or choose method 'lora'"
        )
    strategy = build_strategy(recipe.strategy)
    is_block = strategy.grows and start is not None
    lora = new_adapter if is_block else initialize_from(new_adapter, beginning if start is None else start)
    parametrize = partial(_parametrize, recipe, lora, base.linear_layers)
    return TrainingSession(
        recipe, _make_context(base, recipe, lora, start, windows, once), strategy, past, parametrize, pairs
    )


def _parametrize(recipe: Recipe, lora: Lora, linear_layers: Mapping[str, nn.Linear], steps: int) -> Parametrization:
    match recipe.method:
        case "dora":
            return Dora(lora, linear_layers)
        case "adalora":
            return AdaLora(recipe, lora, linear_layers, steps)
        case "lora+":
            return PlainLora(lora, LORA_PLUS_RATIO)
        case "lora" | "rslora" | "qlora":
            return PlainLora(lora, 1.0)


def initialize_from(new_adapter: dict[str, Factors], start: Lora | None) -> dict[str, Factors]:
    """Copy the update of a version, or of the recipe's start, into a new adapter.

    The copy is exact, unless the new adapter has a smaller rank. Then the update is truncated to that rank.

    Args:
        new_adapter: The new adapter, which is changed in place.
        start: The version or the recipe's start. None leaves the new adapter as it is.

    Returns:
        ``new_adapter``.

    Raises:
        InvalidInput: If the two have different layers.
    """
    if start is None:
        return new_adapter
    if start.keys() != new_adapter.keys():
        raise InvalidInput(
            "the current version adapts other layers than this base model and recipe: consolidate with the "
            "target_modules that it was trained with"
        )
    rank = adapter_rank(new_adapter)
    if adapter_rank(start) > rank:
        start, _ = truncate_rank(start, rank)
    with torch.no_grad():
        for layer, factors in new_adapter.items():
            old = start[layer]
            factors.a[: old.rank] = old.a
            factors.b[:, : old.rank] = old.b * (old.scale / factors.scale)
    return new_adapter


def _make_context(
    base: SharedBase,
    recipe: Recipe,
    lora: Lora,
    start: Lora | None,
    windows: Sequence[Window],
    once: Sequence[Window],
) -> StrategyContext:
    per_epoch = len(windows) + once_per_epoch(len(once), recipe.epochs)

    def losses(adapter: Lora, of: Sequence[Window]) -> list[float]:
        judged = evaluate_windows(base, adapter, of)
        return [result.loss / window.total_weight for result, window in zip(judged, of, strict=True)]

    def logits(adapter: Lora, of: Sequence[Window]) -> Tensor:
        return base.logits(base.pack([of]), [adapter])

    return StrategyContext(
        lora=lora,
        start=start,
        windows=[*windows, *once],
        once=len(once),
        steps=total_steps(per_epoch, recipe),
        epochs=epoch_count(per_epoch, recipe),
        seed=recipe.seed,
        importance=partial(fisher.estimate_update_importance, base),
        factor_importance=partial(fisher.estimate_factor_importance, base),
        losses=losses,
        logits=logits,
    )
