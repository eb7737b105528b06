"""Run ``looper bench forgetting``: plan the runs of a phase, execute them, and write the report.

``looper/cli/bench.py`` calls ``bench``. It calls ``plan.py``, ``run.py``, ``summary.py``, ``report.py`` and
``charts.py``.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from looper.benchmarks.forgetting.charts import draw_matrices, draw_power_law
from looper.benchmarks.forgetting.learner import Learner
from looper.benchmarks.forgetting.plan import (
    GYM_RECIPE,
    LEADER_COUNT,
    NO_STRATEGY,
    SESSION_COUNT,
    STRATEGIES,
    STREAM_RECIPE,
    TENANT_RECIPE,
    TINY_STREAM_RECIPE,
    ForgettingRun,
    plan_all_strategies,
    plan_learning_rates,
    plan_seeds,
    plan_steps_and_ranks,
    plan_stream,
    scale_learning_rate,
)
from looper.benchmarks.forgetting.power_law import fit_power_law
from looper.benchmarks.forgetting.report import ForgettingReport, build_report, to_markdown
from looper.benchmarks.forgetting.run import Notify, RunResult, execute_runs
from looper.benchmarks.forgetting.sources import (
    LearningSession,
    build_gym_sessions,
    build_stream_sessions,
    load_tenant_sessions,
)
from looper.benchmarks.forgetting.stream_report import StreamReport, build_stream_report, stream_markdown
from looper.benchmarks.forgetting.summary import find_leaders, power_law_points, runs_at_best_rate
from looper.gym.workplaces import WORKPLACES
from looper.platform.domain.errors import InvalidInput

PHASES = {1: "every strategy once", 2: "the leaders and both bounds over rates and seeds", 3: "steps and rank"}
QUICK_SESSION_COUNT = 2
"""Sessions of a run with ``--quick``."""
QUICK_STRATEGIES = (NO_STRATEGY, "replay")
"""Strategies of a benchmark with ``--quick``."""


def bench(
    source: str, base: str, learner: Learner, out: Path, *, machine: str, phase: int, quick: bool, notify: Notify
) -> ForgettingReport:
    """Execute the runs of a phase whose results are missing, and write the report.

    Phase 2 executes phase 1 first, to find its leaders. Both write ``forgetting.{json,md,png}``. Phase 3 writes
    ``steps-and-rank.{json,md,png}``.

    Args:
        source: Name of a workplace of the gym with sessions, or a folder of tenants.
        base: Name of the base model.
        learner: What is trained and evaluated.
        out: Folder of the results and of the report.
        machine: Description of the machine, for the report.
        phase: One of ``PHASES``.
        quick: Use two strategies and two sessions only, as a check.
        notify: Called with the progress.

    Returns:
        The report.

    Raises:
        InvalidInput: ``source`` or ``phase`` does not exist.
    """
    if phase not in PHASES:
        known = "; ".join(f"{number} is {content}" for number, content in PHASES.items())
        raise InvalidInput(f"There is no phase {phase}: {known}.")
    in_gym = source in WORKPLACES
    common = ForgettingRun(
        source=source if in_gym else Path(source).resolve().name,
        sessions=QUICK_SESSION_COUNT if quick else SESSION_COUNT,
        base=base,
        recipe=scale_learning_rate(GYM_RECIPE if in_gym else TENANT_RECIPE, learner.parameters),
    )

    @cache
    def load_sessions(seed: int) -> Sequence[LearningSession]:
        sessions = build_gym_sessions(source, seed) if in_gym else load_tenant_sessions(Path(source))
        return sessions[: common.sessions]

    def execute(runs: Sequence[ForgettingRun]) -> list[RunResult]:
        return execute_runs(runs, lambda run: load_sessions(run.recipe.seed), learner, out, notify)

    settings = {
        "source": common.source,
        "base": base,
        "phase": phase,
        "sessions": common.sessions,
        **common.recipe.model_dump(include={"method", "batch_size", "max_seq_length", "max_steps"}, exclude_none=True),
    }
    out.mkdir(parents=True, exist_ok=True)
    if phase == 3:
        results = execute(plan_steps_and_ranks(common))
        points = power_law_points(results)
        law = fit_power_law(points)
        report = build_report(results, machine, settings, law)
        draw_power_law(points, law, out / "steps-and-rank.png")
    else:
        results = execute(plan_all_strategies(common, QUICK_STRATEGIES if quick else STRATEGIES))
        if phase == 2:
            by_rate = execute(plan_learning_rates(common, find_leaders(results, LEADER_COUNT)))
            by_seed = execute(plan_seeds(runs_at_best_rate(by_rate)))
            results = _without_duplicates([*results, *by_rate, *by_seed])
        report = build_report(results, machine, settings)
        names = [session.name for session in load_sessions(common.recipe.seed)]
        draw_matrices(report, names, out / "forgetting.png")
    stem = "steps-and-rank" if phase == 3 else "forgetting"
    (out / f"{stem}.json").write_text(report.model_dump_json(indent=1) + "\n")
    (out / f"{stem}.md").write_text(to_markdown(report))
    return report


def bench_stream(
    source: str, base: str, learner: Learner, out: Path, *, machine: str, sessions: int, quick: bool, notify: Notify
) -> StreamReport:
    """Execute the runs of a stream whose results are missing, and write ``forgetting-<sessions>.{json,md}``.

    Args:
        source: Name of a workplace of the gym.
        base: Name of the base model.
        learner: What is trained and evaluated.
        out: Folder of the results and of the report.
        machine: Description of the machine, for the report.
        sessions: Number of sessions.
        quick: Train each session for one epoch, and leave the upper bound out, as a check.
        notify: Called with the progress.

    Returns:
        The report.

    Raises:
        InvalidInput: ``source`` does not exist, or has no stream of so many sessions.
    """
    recipe = scale_learning_rate(TINY_STREAM_RECIPE if quick else STREAM_RECIPE, learner.parameters)
    stream = build_stream_sessions(source, sessions, recipe.seed)
    common = ForgettingRun(source=source, sessions=sessions, base=base, recipe=recipe)
    out.mkdir(parents=True, exist_ok=True)
    results = execute_runs(plan_stream(common, quick=quick), lambda run: stream, learner, out, notify)
    settings = {
        "source": source,
        "base": base,
        "sessions": sessions,
        **recipe.model_dump(include={"rank", "learning_rate", "batch_size", "seed"}),
    }
    report = build_stream_report(results, machine, settings)
    (out / f"forgetting-{sessions}.json").write_text(report.model_dump_json(indent=1) + "\n")
    (out / f"forgetting-{sessions}.md").write_text(stream_markdown(report))
    return report


def _without_duplicates(results: Sequence[RunResult]) -> list[RunResult]:
    """Drop repeated results of the runs that the parts of a benchmark have in common."""
    return list({result.run.key: result for result in results}.values())
