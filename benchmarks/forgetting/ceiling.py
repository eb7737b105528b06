"""How many random rules does an adapter hold? The ceiling of what one instance can learn without forgetting.

A rule is a key and a code that nothing but the rule tells: "amber 417" asks for the call ``file(code="4831")``. All
rules are trained together, by the encoder and the training steps of consolidations, until each is recalled or recall
rises no more. A rank gets four times as many rules as long as it recalls at least ``HELD`` of them, and then a number
between the last two. So what is lost here is lost for want of room or of training, and not because a later session
overwrote it.

``looper bench forgetting --ceiling`` calls ``bench_ceiling``. The runs are those of ``run.py``, and so are their
results on disk: an interrupted command goes on where it was, and one with more rules continues one with fewer.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from random import Random

from looper.benchmarks.forgetting.ceiling_report import (
    HELD,
    CeilingReport,
    best_recall,
    build_ceiling_report,
    ceiling_markdown,
    count_rules,
)
from looper.benchmarks.forgetting.charts import draw_ceiling
from looper.benchmarks.forgetting.learner import Learner
from looper.benchmarks.forgetting.plan import GYM_RECIPE, NO_STRATEGY, ForgettingRun, RunKind, scale_learning_rate
from looper.benchmarks.forgetting.run import Notify, RunResult, execute_runs
from looper.benchmarks.forgetting.sources import LearningSession
from looper.platform.domain.example import Example, Turn
from looper.platform.domain.trajectory import ToolCall

RANKS = (4, 16, 64)
QUICK_RANKS = (4, 16)
FIRST_COUNT = 16
"""Rules of the first run of each rank."""
QUICK_FIRST_COUNT = 4
GROWTH = 4
BATCH_SIZE = 8
"""Of 43 tokens each with SmolLM2-135M: a step is one pass of about 340 tokens."""
ROUND_EPOCHS = 3
"""Epochs between two evaluations of recall, and ``ROUND_STEPS`` optimizer steps if that is more."""
ROUND_STEPS = 40

_WORDS = (
    *("amber", "harbor", "cedar", "velvet", "copper", "meadow", "lantern", "walnut"),
    *("silver", "orchid", "canyon", "marble", "ribbon", "falcon", "pepper", "willow"),
)
_NUMBERS = range(100, 1000)
_CODES = 10_000


def draw_rules(count: int, seed: int) -> tuple[Example, ...]:
    """Draw random rules, one example each.

    Args:
        count: Number of rules, at most 14,400: one for each word and number.
        seed: Seed. Of one seed, fewer rules are the first of more.

    Returns:
        The examples. No two have the same key.
    """
    rng = Random(seed)
    keys = [f"{word} {number}" for word in _WORDS for number in _NUMBERS]
    rng.shuffle(keys)
    return tuple(_make_example(number, key, f"{rng.randrange(_CODES):04d}") for number, key in enumerate(keys[:count]))


def plan_counts(most: int, *, quick: bool = False) -> list[int]:
    """Return the numbers of rules of the runs of a rank: each is four times the one before, and the last is ``most``.

    Args:
        most: Number of rules of the last run.
        quick: Begin with fewer.

    Returns:
        The numbers, in ascending order.
    """
    first = QUICK_FIRST_COUNT if quick else FIRST_COUNT
    smaller = [first * GROWTH**power for power in range(math.ceil(math.log(max(most / first, 1), GROWTH)))]
    return [count for count in smaller if count < most] + [most]


def plan_rules(count: int, rank: int, base: str, parameters: int) -> ForgettingRun:
    """Plan one run: random rules for one rank, with the scale and the learning rate of all benchmarks of forgetting.

    Args:
        count: Number of rules.
        rank: LoRA rank.
        base: Name of the base model.
        parameters: Number of its parameters.

    Returns:
        The run.
    """
    recipe = scale_learning_rate(GYM_RECIPE, parameters).model_copy(
        update={
            "strategy": NO_STRATEGY,
            "rank": rank,
            "alpha": GYM_RECIPE.alpha / GYM_RECIPE.rank * rank,
            "batch_size": BATCH_SIZE,
            "epochs": max(ROUND_EPOCHS, math.ceil(ROUND_STEPS / math.ceil(count / BATCH_SIZE))),
        }
    )
    return ForgettingRun(kind=RunKind.RULES, source=f"{count} random rules", sessions=1, base=base, recipe=recipe)


def bench_ceiling(
    base: str, learner: Learner, out: Path, *, machine: str, most: int, quick: bool, notify: Notify
) -> CeilingReport:
    """Execute the runs whose results are missing, and write ``ceiling.{json,md,png}``.

    Args:
        base: Name of the base model.
        learner: What is trained and evaluated. It must take adapters of the largest of ``RANKS``.
        out: Folder of the results and of the report.
        machine: Description of the machine, for the report.
        most: Largest number of rules.
        quick: Two ranks only, and fewer rules at first, as a check.
        notify: Called with the progress.

    Returns:
        The report.
    """
    out.mkdir(parents=True, exist_ok=True)
    results: list[RunResult] = []

    def execute(counts: Mapping[int, int]) -> list[int]:
        """Execute the runs of these ranks with so many rules. Return the ranks that hold theirs."""
        runs = [plan_rules(count, rank, base, learner.parameters) for rank, count in counts.items()]
        found = execute_runs(runs, _load_rules, learner, out, notify)
        results.extend(found)
        return [each.run.recipe.rank for each in found if best_recall(each) >= HELD]

    standing, held, between = list(QUICK_RANKS if quick else RANKS), 0, dict[int, int]()
    for count in plan_counts(most, quick=quick):
        ranks, standing = standing, execute(dict.fromkeys(standing, count))
        if held:
            between |= {rank: math.isqrt(held * count) for rank in ranks if rank not in standing}
        held = count
        if not standing:
            break
    execute(between)
    recipe = results[0].run.recipe.model_dump(include={"learning_rate", "batch_size", "seed"})
    report = build_ceiling_report(results, machine, {"base": base, "most_rules": most, **recipe})
    (out / "ceiling.json").write_text(report.model_dump_json(indent=1) + "\n")
    (out / "ceiling.md").write_text(ceiling_markdown(report))
    draw_ceiling(report, out / "ceiling.png")
    return report


def _load_rules(run: ForgettingRun) -> list[LearningSession]:
    """Return the rules of a run as its only session. What is trained on is what must be recalled."""
    rules = draw_rules(count_rules(run), run.recipe.seed)
    return [LearningSession(run.source, train=rules, holdout=rules)]


def _make_example(number: int, key: str, code: str) -> Example:
    call = ToolCall(id=f"call-{number}", name="file", arguments=json.dumps({"code": code}))
    turns = Turn(role="user", content=key), Turn(role="assistant", tool_calls=(call,), weight=1.0)
    return Example(id=f"rule-{number}", trajectory_id=f"rule-{number}", task_id=f"rule-{number}", turns=turns)
