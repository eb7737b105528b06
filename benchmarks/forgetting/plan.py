"""Which runs the forgetting benchmark consists of. A run is a life: one instance, one strategy, session after session.

1. ``every_strategy``: each strategy once, both bounds among them, at one learning rate and one seed.
2. ``rates``, the best of them and both bounds over the same learning rates; then ``seeds``, each of those at its best
   rate over several seeds.
3. ``steps_and_rank``: sequential training over epochs and ranks, for the power law.

A run is known by its settings alone (``Run.key``), so that phases share what they have in common.
"""

import hashlib
from collections.abc import Iterable, Sequence
from enum import StrEnum
from itertools import product
from typing import Any

from pydantic import BaseModel, ConfigDict

from looper.platform.domain.consolidation import Recipe
from looper.platform.domain.strategy import STRATEGY_NAMES

SESSIONS = 5

NONE = "none"
STRATEGIES = (*STRATEGY_NAMES, "replay(share=0.5)", "replay(share=1)", "replay+ella")

GYM = Recipe(rank=16, alpha=32, learning_rate=2e-3, epochs=3, batch_size=4, max_seq_length=512)
"""About 29 episodes of 105 tokens: 21 steps and 9,000 tokens a session, a minute on two cores."""
TENANTS = Recipe(rank=16, alpha=32, learning_rate=1e-3, epochs=1, max_steps=14, batch_size=4, max_seq_length=256)
"""At most 14,000 of a tenant's tokens in windows of 256: a minute and a half on two cores."""

LEADERS = 2
SEEDS = (0, 1, 2)
LEARNING_RATES = (1.0, 0.5, 2.0)
"""Times that of the first phase: both neighbours at a factor of two. Of equals, the first is gone on with."""
EPOCHS = (1, 2, 4)
RANKS = (2, 8, 32)
"""Three each: more epochs would take as long as all of these together."""


class RunKind(StrEnum):
    BASE = "base"
    """Nothing is trained: where forward transfer is measured from."""
    MULTI_TASK = "multi-task"
    """Every session's examples at once: the upper bound."""
    SEQUENCE = "sequence"
    """Session after session; with the strategy ``none``, the lower bound."""


class ForgettingRun(BaseModel):
    """Everything that the numbers of one life depend on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: RunKind = RunKind.SEQUENCE
    source: str
    """A work place of the gym, or the name of a folder of tenants."""
    sessions: int = SESSIONS
    """How many of the source's sessions are lived through."""
    base: str
    """The base model."""
    recipe: Recipe
    """How each session is learned, the strategy included; its seed draws the gym's tasks too."""

    @property
    def key(self) -> str:
        """Names the run's results: 16 hexadecimal digits of its settings' SHA-256."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """For people: what is run, and where it differs from its fellows."""
        recipe = self.recipe
        what = recipe.strategy if self.kind is RunKind.SEQUENCE else str(self.kind)
        return f"{what}, rate {recipe.learning_rate:g}, rank {recipe.rank}, {recipe.epochs} epochs, seed {recipe.seed}"


def every_strategy(common: ForgettingRun, strategies: Iterable[str] = STRATEGIES) -> list[ForgettingRun]:
    """Phase 1: each of ``strategies`` as ``common`` is, before them the bare base and the upper bound."""
    return [base_of(common), _multi_task(common), *(_changed(common, strategy=strategy) for strategy in strategies)]


def rates(common: ForgettingRun, leaders: Sequence[str]) -> list[ForgettingRun]:
    """Phase 2: ``leaders``, sequential training and the upper bound over ``LEARNING_RATES``."""
    each = [_changed(common, learning_rate=common.recipe.learning_rate * times) for times in LEARNING_RATES]
    return list({run.key: run for one in each for run in every_strategy(one, [NONE, *leaders])}.values())


def seeds(chosen: Sequence[ForgettingRun]) -> list[ForgettingRun]:
    """Phase 2, then: each of ``chosen`` over ``SEEDS``, with the bare base of each seed."""
    each = [_changed(run, seed=seed) for seed, run in product(SEEDS, chosen)]
    return list({run.key: run for run in [*map(base_of, each), *each]}.values())


def steps_and_rank(common: ForgettingRun) -> list[ForgettingRun]:
    """Phase 3: sequential training over ``EPOCHS`` and ``RANKS``, with alpha / rank as it was."""
    scale = common.recipe.alpha / common.recipe.rank
    return [
        _changed(common, strategy=NONE, epochs=epochs, rank=rank, alpha=scale * rank, max_steps=None)
        for epochs, rank in product(EPOCHS, RANKS)
    ]


def base_of(run: ForgettingRun) -> ForgettingRun:
    """What ``run``'s instance could do before any training: the same for all recipes of one seed and context."""
    bare = Recipe(strategy=NONE, seed=run.recipe.seed, max_seq_length=run.recipe.max_seq_length)
    return run.model_copy(update={"kind": RunKind.BASE, "recipe": bare})


def _multi_task(common: ForgettingRun) -> ForgettingRun:
    """With as many steps as all sessions of a sequence have together."""
    steps = common.recipe.max_steps
    together = _changed(common, strategy=NONE, max_steps=None if steps is None else steps * common.sessions)
    return together.model_copy(update={"kind": RunKind.MULTI_TASK})


def _changed(run: ForgettingRun, **changes: Any) -> ForgettingRun:
    """``run`` in a recipe that differs in ``changes``."""
    return run.model_copy(update={"recipe": run.recipe.model_copy(update=changes)})
