"""``looper bench forgetting``: plan, live, report."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from looper.benchmarks.forgetting import report as report_
from looper.benchmarks.forgetting.learner import Learner
from looper.benchmarks.forgetting.plan import (
    GYM,
    LEADERS,
    NONE,
    SESSIONS,
    STRATEGIES,
    TENANTS,
    ForgettingRun,
    every_strategy,
    rates,
    seeds,
    steps_and_rank,
)
from looper.benchmarks.forgetting.power_law import fit_power_law
from looper.benchmarks.forgetting.report import ForgettingReport
from looper.benchmarks.forgetting.run import Notify, RunResult, execute
from looper.benchmarks.forgetting.sources import LearningSession, gym_sessions, tenant_sessions
from looper.gym.workplaces import WORKPLACES
from looper.platform.domain.errors import InvalidInput

PHASES = {1: "every strategy once", 2: "the leaders and both bounds over rates and seeds", 3: "steps and rank"}
QUICK_SESSIONS, QUICK_STRATEGIES = 2, (NONE, "replay")


def bench(
    source: str, base: str, learner: Learner, out: Path, *, machine: str, phase: int, quick: bool, notify: Notify
) -> ForgettingReport:
    """Do what ``out`` does not hold yet of a phase (``PHASES``), write its report there and return it.

    ``source`` is a work place of the gym with sessions, or a folder of tenants. Phase 2 does phase 1 first, for its
    leaders; both leave ``forgetting.{json,md,png}``, phase 3 ``steps-and-rank.{json,md,png}``. With ``quick``, two
    strategies live two sessions, to see that all works. Raises InvalidInput for a source or phase that is none.
    """
    if phase not in PHASES:
        known = "; ".join(f"{number} is {what}" for number, what in PHASES.items())
        raise InvalidInput(f"there is no phase {phase}: {known}")
    in_gym = source in WORKPLACES
    common = ForgettingRun(
        source=source if in_gym else Path(source).resolve().name,
        sessions=QUICK_SESSIONS if quick else SESSIONS,
        base=base,
        recipe=GYM if in_gym else TENANTS,
    )

    @cache
    def sessions(seed: int) -> Sequence[LearningSession]:
        return (gym_sessions(source, seed) if in_gym else tenant_sessions(Path(source)))[: common.sessions]

    def live(runs: Sequence[ForgettingRun]) -> list[RunResult]:
        return execute(runs, lambda run: sessions(run.recipe.seed), learner, out, notify)

    settings = {
        "source": common.source,
        "base": base,
        "phase": phase,
        "sessions": common.sessions,
        **common.recipe.model_dump(include={"method", "batch_size", "max_seq_length", "max_steps"}, exclude_none=True),
    }
    out.mkdir(parents=True, exist_ok=True)
    if phase == 3:
        results = live(steps_and_rank(common))
        measured = report_.points(results)
        law = fit_power_law(measured)
        found = report_.report(results, machine, settings, law)
        report_.draw_power_law(measured, law, out / "steps-and-rank.png")
    else:
        results = live(every_strategy(common, QUICK_STRATEGIES if quick else STRATEGIES))
        if phase == 2:
            swept = live(rates(common, report_.leaders(results, LEADERS)))
            results = _once([*results, *swept, *live(seeds(report_.at_best_rate(swept)))])
        found = report_.report(results, machine, settings)
        names = [session.name for session in sessions(common.recipe.seed)]
        report_.draw_matrices(found, names, out / "forgetting.png")
    stem = "steps-and-rank" if phase == 3 else "forgetting"
    (out / f"{stem}.json").write_text(found.model_dump_json(indent=1) + "\n")
    (out / f"{stem}.md").write_text(report_.to_markdown(found))
    return found


def _once(results: Sequence[RunResult]) -> list[RunResult]:
    """What both phases have in common is one run."""
    return list({result.run.key: result for result in results}.values())
