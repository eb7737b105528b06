"""Plan the runs of the forgetting benchmark: which strategy is trained with which recipe in which phase.

In a run, one instance learns one session after another with one strategy. ``bench.py`` plans the runs of a phase here
and passes them to ``run.py``:

1. ``plan_all_strategies``: each strategy once, and both bounds, with one learning rate and one seed.
2. ``plan_learning_rates``: the best strategies and both bounds with several learning rates. Then ``plan_seeds``: each
   of them with its best learning rate and several seeds.
3. ``plan_steps_and_ranks``: sequential fine-tuning with several epochs and ranks, for the power law.

The settings of a run identify it (``ForgettingRun.key``), so phases share the runs that they have in common.
"""

import hashlib
from collections.abc import Iterable, Sequence
from enum import StrEnum
from itertools import product
from typing import Any

from pydantic import BaseModel, ConfigDict

from looper.platform.domain.learning_rate import SMALL_BASE_RATE, default_learning_rate
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.strategy import STRATEGY_NAMES

SESSION_COUNT = 5
"""Sessions of a full run of the sessions that were written by hand. More sessions are a generated stream."""
STREAM_EVALUATED_EVERY = 5
"""In a stream, all earlier sessions are evaluated after every fifth session and after the last. After the others, only
the session that was just trained is."""

NO_STRATEGY = "none"
"""Sequential fine-tuning without a strategy against forgetting."""
STRATEGIES = (*STRATEGY_NAMES, "replay(share=0.5)", "replay(share=1)", "replay+ella")

GYM_RECIPE = Recipe(rank=16, alpha=32, learning_rate=2e-3, epochs=3, batch_size=4, max_seq_length=512)
"""For about 29 episodes of 105 tokens: 21 steps and 9,000 tokens per session, which take a minute on two cores."""
STREAM_RECIPE = GYM_RECIPE.model_copy(update={"batch_size": 2})
"""For about 13 episodes of 90 tokens: 21 steps and 3,500 tokens per session without replay. Batches of 4 leave a first
session at half of its tasks."""
CHEAP_STREAM_RECIPE = STREAM_RECIPE.model_copy(update={"epochs": 1, "strategy": "replay(share=3.5)"})
"""4.5 passes over as many windows as are new, which is 1.5 times what three epochs without replay take."""
TINY_STREAM_RECIPE = STREAM_RECIPE.model_copy(update={"epochs": 1})
"""Too short to learn much: it shows what many sessions cost."""
TENANT_RECIPE = Recipe(rank=16, alpha=32, learning_rate=1e-3, epochs=1, max_steps=14, batch_size=4, max_seq_length=256)
"""For at most 14,000 tokens of a tenant in windows of 256: a minute and a half on two cores."""

LEADER_COUNT = 2
"""Strategies of phase 1 that phase 2 continues with."""
SEEDS = (0, 1, 2)
LEARNING_RATE_FACTORS = (1.0, 0.5, 2.0)
"""Factors on the learning rate of phase 1: itself, half and double. If two are equally good, the first one is used."""
EPOCHS = (1, 2, 4)
RANKS = (2, 8, 32)
"""Three values each, because eight epochs would take as long as all of these runs together."""


class RunKind(StrEnum):
    """What the instance of a run is trained on."""

    BASE = "base"
    """No training. Forward transfer is measured from here."""
    MULTI_TASK = "multi-task"
    """The examples of all sessions in one training: the upper bound."""
    SEQUENCE = "sequence"
    """One session after another. With the strategy ``none`` this is the lower bound."""
    RULES = "rules"
    """Random rules in one training, to find out how many an adapter holds (``ceiling.py``)."""


class ForgettingRun(BaseModel):
    """All settings that the results of one run depend on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: RunKind = RunKind.SEQUENCE
    """What the instance is trained on."""
    source: str
    """Name of a workplace of the gym, or of a folder of tenants."""
    sessions: int = SESSION_COUNT
    """Number of sessions of the source that are used."""
    base: str
    """Name of the base model."""
    recipe: Recipe
    """Recipe of each session, with its strategy. Its seed also selects the tasks of the gym."""

    @property
    def key(self) -> str:
        """Folder name of the results: the first 16 hexadecimal digits of the SHA-256 of the settings."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    @property
    def learning_rate(self) -> float:
        """Peak learning rate. Benchmarks choose it for the base model before they plan."""
        assert self.recipe.learning_rate is not None
        return self.recipe.learning_rate

    @property
    def name(self) -> str:
        """Short description for people, with the settings that differ between runs."""
        recipe = self.recipe
        names = {RunKind.SEQUENCE: recipe.strategy, RunKind.RULES: self.source}
        trained = names.get(self.kind, str(self.kind))
        return f"{trained}, rate {self.learning_rate:g}, rank {recipe.rank}, {recipe.epochs} epochs, seed {recipe.seed}"


def scale_learning_rate(recipe: Recipe, parameters: int) -> Recipe:
    """Return a recipe of this module for another base model: its learning rate is as many times the base's default.

    Args:
        recipe: The recipe for SmolLM2-135M.
        parameters: Number of parameters of the base model.

    Returns:
        The recipe. It is the same for base models that are no larger.
    """
    assert recipe.learning_rate is not None
    factor = default_learning_rate(parameters) / SMALL_BASE_RATE
    return recipe.model_copy(update={"learning_rate": recipe.learning_rate * factor})


def plan_all_strategies(common: ForgettingRun, strategies: Iterable[str] = STRATEGIES) -> list[ForgettingRun]:
    """Plan phase 1: the base model, the upper bound, and one run per strategy.

    Args:
        common: The settings that all runs share.
        strategies: Names of strategies, in the syntax of ``Recipe.strategy``.

    Returns:
        The runs, with both bounds first.
    """
    sequences = [_with_recipe(common, strategy=strategy) for strategy in strategies]
    return [base_model_run(common), _multi_task_run(common), *sequences]


def plan_learning_rates(common: ForgettingRun, leaders: Sequence[str]) -> list[ForgettingRun]:
    """Plan the first part of phase 2: the leaders and both bounds with each learning rate.

    Args:
        common: The settings of phase 1.
        leaders: Names of the best strategies of phase 1.

    Returns:
        The runs without repetition. Some are runs of phase 1 too.
    """
    by_rate = [_with_recipe(common, learning_rate=common.learning_rate * factor) for factor in LEARNING_RATE_FACTORS]
    return _without_duplicates(run for one in by_rate for run in plan_all_strategies(one, [NO_STRATEGY, *leaders]))


def plan_seeds(chosen: Sequence[ForgettingRun]) -> list[ForgettingRun]:
    """Plan the second part of phase 2: every chosen run with each of ``SEEDS``.

    Args:
        chosen: One run per strategy and bound, with its best learning rate.

    Returns:
        The runs without repetition, with the base model of each seed first.
    """
    by_seed = [_with_recipe(run, seed=seed) for seed, run in product(SEEDS, chosen)]
    return _without_duplicates([*map(base_model_run, by_seed), *by_seed])


def plan_steps_and_ranks(common: ForgettingRun) -> list[ForgettingRun]:
    """Plan phase 3: sequential fine-tuning with ``EPOCHS`` and ``RANKS``.

    Args:
        common: The settings of phase 1.

    Returns:
        One run per combination. All have the same alpha / rank, so that the scale of the update stays the same.
    """
    scale = common.recipe.alpha / common.recipe.rank
    return [
        _with_recipe(common, strategy=NO_STRATEGY, epochs=epochs, rank=rank, alpha=scale * rank, max_steps=None)
        for epochs, rank in product(EPOCHS, RANKS)
    ]


def plan_stream(common: ForgettingRun, *, quick: bool) -> list[ForgettingRun]:
    """Plan a stream: replay at 1.5 times the cost of none, none, the default strategy, and the upper bound.

    Args:
        common: The settings that all runs share, with the default strategy.
        quick: Only the default strategy and none.

    Returns:
        The runs.
    """
    none = _with_recipe(common, strategy=NO_STRATEGY)
    if quick:
        return [common, none]
    same = {"seed": common.recipe.seed, "learning_rate": common.learning_rate}
    cheap = common.model_copy(update={"recipe": CHEAP_STREAM_RECIPE.model_copy(update=same)})
    return [cheap, none, common, _multi_task_run(common)]


def evaluated_sessions(run: ForgettingRun, number: int) -> tuple[int, ...]:
    """Return which sessions are evaluated after a training round.

    Args:
        run: The run.
        number: Number of the round, from 0.

    Returns:
        Numbers of sessions, from 0. In a stream these are sessions that were trained, because there are too many to ask
        all of them every time.
    """
    if run.kind is not RunKind.SEQUENCE or run.sessions <= SESSION_COUNT:
        return tuple(range(run.sessions))
    done = number + 1
    is_full = done % STREAM_EVALUATED_EVERY == 0 or done == run.sessions
    return tuple(range(done)) if is_full else (number,)


def base_model_run(run: ForgettingRun) -> ForgettingRun:
    """Return the run that evaluates the base model of ``run`` before any training.

    Args:
        run: A run of any kind.

    Returns:
        A run that is the same for all recipes with one seed and one ``max_seq_length``.
    """
    recipe = Recipe(
        strategy=NO_STRATEGY,
        learning_rate=GYM_RECIPE.learning_rate,
        seed=run.recipe.seed,
        max_seq_length=run.recipe.max_seq_length,
    )
    return run.model_copy(update={"kind": RunKind.BASE, "recipe": recipe})


def _multi_task_run(common: ForgettingRun) -> ForgettingRun:
    """Return the upper bound. One of its rounds has as many steps as all sessions of a sequence have together."""
    steps = common.recipe.max_steps
    run = _with_recipe(common, strategy=NO_STRATEGY, max_steps=None if steps is None else steps * common.sessions)
    return run.model_copy(update={"kind": RunKind.MULTI_TASK})


def _with_recipe(run: ForgettingRun, **changes: Any) -> ForgettingRun:
    return run.model_copy(update={"recipe": run.recipe.model_copy(update=changes)})


def _without_duplicates(runs: Iterable[ForgettingRun]) -> list[ForgettingRun]:
    return list({run.key: run for run in runs}.values())
