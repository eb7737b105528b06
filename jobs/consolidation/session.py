"""What a strategy may ask of the base model, while one tenant's session lasts."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from looper.jobs.consolidation import fisher
from looper.jobs.consolidation.encode import Window
from looper.jobs.consolidation.evaluate import judge_each
from looper.jobs.consolidation.lora import Lora
from looper.jobs.consolidation.plan import total_steps
from looper.jobs.consolidation.shared_base import SharedBase
from looper.jobs.consolidation.strategies.strategy import Session
from looper.platform.domain.consolidation import Recipe


def open_session(
    base: SharedBase, recipe: Recipe, lora: Lora, start: Lora | None, windows: Sequence[Window]
) -> Session:
    """A session on ``base``: ``lora`` is what will be trained on ``windows``, from ``start``."""

    def losses(acting: Lora, asked: Sequence[Window]) -> list[float]:
        judged = judge_each(base, acting, asked)
        return [each.loss / sum(window.weights) for each, window in zip(judged, asked, strict=True)]

    def logits(acting: Lora, asked: Sequence[Window]) -> Tensor:
        return base.logits(base.pack([asked]), [acting])

    return Session(
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
