"""The settings of a run of the skill benchmark, and the arms that it has.

``bench.py`` plans with this module; the command line fills the settings.
"""

import hashlib
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from looper.benchmarks.skill.arms.arm import Adapter, Arm
from looper.benchmarks.skill.arms.registry import list_arms, list_quick_arms
from looper.benchmarks.skill.worlds import WORLDS, find_worlds
from looper.gym.workplace import Workplace
from looper.platform.domain.recipe import Recipe

SEEDS = (0, 1, 2)
"""Seeds of a full run."""
TASKS = 100
"""Tasks of each world and seed in a full run."""
EPISODES = 40
"""Recorded episodes of each world and seed, as in ``examples/``."""
MAX_CONTEXT_TOKENS = 16_384
"""Maximum tokens of prompt and answer together, if the base model has as many: the position test needs 9,200."""

QUICK_SEEDS = (0,)
QUICK_TASKS = 10
QUICK_CONTEXT_TOKENS = 4_096
QUICK_STEPS = 30
"""Optimizer steps of each skill with ``--quick``: 30 steps of four examples take about two minutes on two cores."""


class SkillBenchSettings(BaseModel):
    """All settings that the results of a run depend on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: str
    """URL of the endpoint, or ``local``."""
    base: str
    """Name of the base model."""
    worlds: tuple[str, ...]
    """Names of the worlds."""
    seeds: tuple[int, ...]
    """Seeds of the episodes, of the tasks and of the training."""
    tasks: int
    """Tasks of each world and seed."""
    episodes: int
    """Recorded episodes of each world and seed."""
    context_tokens: int
    """Maximum tokens of prompt and answer together."""
    recipe: Recipe
    """Recipe of the skills."""
    quick: bool
    """Whether only the arms of ``--quick`` are asked."""
    rules: str
    """Start of the SHA-256 of the worlds' rules, so that results under other rules are never mixed with these."""


def plan_settings(
    *, endpoint: str, base: str, worlds: Sequence[str], recipe: Recipe, max_context_tokens: int, quick: bool
) -> SkillBenchSettings:
    """Plan a run.

    Args:
        endpoint: URL of the endpoint, or ``local``.
        base: Name of the base model.
        worlds: Names of worlds. None at all: every world, or the first one if ``quick``.
        recipe: Recipe of the skills.
        max_context_tokens: Maximum tokens of prompt and answer together that the model allows.
        quick: One world, one seed, few tasks and few steps, to fit into a quarter of an hour on two cores.

    Returns:
        The settings.

    Raises:
        InvalidInput: A world does not exist.
    """
    chosen = find_worlds(worlds)
    if quick and not worlds:
        chosen = chosen[:1]
    return SkillBenchSettings(
        endpoint=endpoint,
        base=base,
        worlds=tuple(world.instance for world in chosen),
        seeds=QUICK_SEEDS if quick else SEEDS,
        tasks=QUICK_TASKS if quick else TASKS,
        episodes=EPISODES,
        context_tokens=min(max_context_tokens, QUICK_CONTEXT_TOKENS if quick else MAX_CONTEXT_TOKENS),
        recipe=recipe.model_copy(update={"max_steps": QUICK_STEPS}) if quick else recipe,
        quick=quick,
        rules=hashlib.sha256(repr(chosen).encode()).hexdigest()[:12],
    )


def plan_arms(settings: SkillBenchSettings) -> tuple[list[Arm], dict[str, str]]:
    """Return the arms of a run, and why others are left out.

    Args:
        settings: The settings.

    Returns:
        The arms, and a reason by the name of what is left out.
    """
    if settings.quick:
        return list_quick_arms(), {"all other arms": "--quick asks only those that answer whether a skill adds"}
    return list_arms(settings.context_tokens)


def list_missing_adapters(worlds: Sequence[Workplace]) -> dict[Adapter, str]:
    """Return the adapters that a Looper of the benchmark's own cannot teach, with the reason.

    Args:
        worlds: The worlds of the run.

    Returns:
        A reason for each.
    """
    missing = {}
    if len(WORLDS) == 1:
        missing[Adapter.NEUTRAL] = "there is no other world to learn the call format in"
    if len({world.instance.partition("/")[0] for world in worlds}) == 1:
        missing[Adapter.WRONG_TENANT] = "all worlds of the run are of one tenant"
    return missing
