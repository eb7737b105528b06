"""The tenants as the sessions of one agent that moves from business to business: what it forgets of the earlier ones.

``bench.py`` calls it. Prompts and folds are those of the arm ``skill`` with seed 0; strategies, matrices and metrics
are those of ``looper bench forgetting``. A session's score is the share of its held-out actions of which tool and
arguments are right.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from looper.benchmarks.forgetting.bench import QUICK_STRATEGIES
from looper.benchmarks.forgetting.charts import draw_matrices
from looper.benchmarks.forgetting.learner import Learner
from looper.benchmarks.forgetting.plan import ForgettingRun, plan_all_strategies
from looper.benchmarks.forgetting.report import ForgettingReport, build_report
from looper.benchmarks.forgetting.run import BenchmarkProgress, execute_runs
from looper.benchmarks.forgetting.sources import LearningSession
from looper.benchmarks.real_tenants.arms import ArmPrompts, TenantArm
from looper.platform.domain.recipe import Recipe

STRATEGIES = QUICK_STRATEGIES
"""The lower bound and the default strategy. The base model and the multi-task bound stand beside them."""


def run_sessions(
    prompts: Sequence[tuple[str, ArmPrompts]],
    source: str,
    base: str,
    recipe: Recipe,
    learner: Learner,
    out: Path,
    machine: str,
    notify: Callable[[str], None],
) -> ForgettingReport:
    """Execute what is missing, write ``tenants-forgetting.png``, and return the report.

    Args:
        prompts: Name and prompts of each tenant, in the order of the sessions.
        source: Name of the folder of tenants.
        base: Name of the base model.
        recipe: The recipe of each session.
        learner: What is trained and evaluated.
        out: Folder of the results.
        machine: Description of the machine.
        notify: Called with a line before and after each training.

    Returns:
        The report.
    """
    recipe = recipe.resolve_learning_rate(learner.parameters)
    sessions = [
        LearningSession(name, tuple(each.training_examples(recipe)), tuple(each.asked_examples(TenantArm.BARE)))
        for name, each in prompts
    ]
    common = ForgettingRun(source=source, sessions=len(sessions), base=base, recipe=recipe)

    def report(at: BenchmarkProgress) -> None:
        notify(f"sessions, {at.run.name}: {at.finished_rounds} of {at.round_count}")

    results = execute_runs(plan_all_strategies(common, STRATEGIES), lambda _: sessions, learner, out, report)
    settings: dict[str, str | int | float] = {"source": source, "base": base, "sessions": len(sessions)}
    found = build_report(results, machine, settings)
    draw_matrices(found, [session.name for session in sessions], out / "tenants-forgetting.png")
    return found
