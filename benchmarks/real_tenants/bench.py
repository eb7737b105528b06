"""Run the benchmark of real tenants: plan the runs, say what they cost, execute them, and write the report.

``__main__.py`` calls ``bench``. It calls ``tenants.py``, ``run.py``, ``sessions.py``, ``report.py`` and ``chart.py``.
"""

import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

from looper.benchmarks.forgetting.learner import Learner
from looper.benchmarks.forgetting.report import ForgettingReport
from looper.benchmarks.real_tenants.chart import draw_arms
from looper.benchmarks.real_tenants.model import TenantModel
from looper.benchmarks.real_tenants.report import TenantsReport, build_report, to_markdown
from looper.benchmarks.real_tenants.run import (
    RunCost,
    TenantResult,
    TenantRun,
    execute_run,
    load_results,
    measure_cost,
    select_results,
)
from looper.benchmarks.real_tenants.sessions import run_sessions
from looper.benchmarks.real_tenants.tenants import Tenant, TenantSplit, count_actions, load_tenants, split_tasks
from looper.platform.domain.recipe import Recipe

QUICK_SEEDS = (0,)
QUICK_TENANTS = 2
QUICK_STEPS = 4
"""Seeds, tenants and optimizer steps with ``--quick``."""

_Planned = tuple[TenantRun, TenantSplit]


def bench(
    folder: Path,
    base: str,
    model: TenantModel,
    out: Path,
    *,
    recipe: Recipe,
    seeds: Sequence[int],
    machine: str,
    learner: Callable[[], Learner] | None = None,
    quick: bool = False,
    notify: Callable[[str], None] = print,
) -> TenantsReport:
    """Execute what is missing, and write ``tenants.{json,md,png}``. They are written again after each tenant.

    Args:
        folder: Folder with one folder of trajectories per tenant.
        base: Name of the base model.
        model: The base model.
        out: Folder of the results and of the report. Results of other base models in it are reported too.
        recipe: The recipe of each skill.
        seeds: Seeds, each of which holds out a fold.
        machine: Description of the machine.
        learner: Makes what learns the tenants as sessions, after the arms. None: that is left out.
        quick: Use two tenants, one seed and a few steps only, as a check.
        notify: Called with lines of progress.

    Returns:
        The report.

    Raises:
        InvalidInput: The folder has no tenants.
    """
    tenants = load_tenants(folder)
    silent = [tenant.name for tenant in tenants if not any(map(count_actions, tenant.recorded))]
    tenants = [tenant for tenant in tenants if tenant.name not in silent]
    if quick:
        tenants, seeds, recipe = (
            tenants[:QUICK_TENANTS],
            QUICK_SEEDS,
            recipe.model_copy(update={"max_steps": QUICK_STEPS}),
        )
    planned = _plan(tenants, seeds, base, model.revision, recipe)
    settings: dict[str, str | int | float] = {
        "tenants": Path(folder).resolve().name,
        "base": base,
        "seeds": " ".join(map(str, seeds)),
        **recipe.model_dump(
            include={
                "method",
                "strategy",
                "rank",
                "learning_rate",
                "epochs",
                "max_steps",
                "batch_size",
                "max_seq_length",
            },
            exclude_none=True,
        ),
    }
    out.mkdir(parents=True, exist_ok=True)
    sessions: ForgettingReport | None = None

    def write() -> TenantsReport:
        results = select_results(load_results(out), [run for run, _ in planned])
        report = build_report(results, machine, settings, _list_unfinished(planned, results), silent, sessions)
        (out / "tenants.json").write_text(report.model_dump_json(indent=1) + "\n")
        (out / "tenants.md").write_text(to_markdown(report))
        if report.bases:
            draw_arms(report, out / "tenants.png")
        return report

    # The cheapest first, so that an interrupted command knows most. One seed of all tenants comes before the next.
    by_cost = sorted(
        ((*each, measure_cost(*each, model)) for each in _list_missing(planned, load_results(out))),
        key=lambda each: (each[0].recipe.seed, _weigh(each[2])),
    )
    missing, costs = [each[:2] for each in by_cost], [each[2] for each in by_cost]
    work = sum(map(_weigh, costs))
    if missing:
        notify(_describe_cost(costs, model.measure_rate(model.make_prompts(missing[0][1]), recipe)))
    started, done = time.monotonic(), 0.0
    for number, ((run, split), cost) in enumerate(zip(missing, costs, strict=True), start=1):
        notify(f"{number} of {len(missing)}: {run.name}")
        execute_run(run, split, model, out, notify)
        write()
        done += _weigh(cost)
        seconds = time.monotonic() - started
        left = (work - done) * seconds / max(done, 1.0)
        notify(f"{number} of {len(missing)} finished after {seconds / 60:.0f} min, about {left / 60:.0f} min left")
    if learner is not None:
        first = recipe.model_copy(update={"seed": seeds[0]})
        splits = [split_tasks(tenant, first.seed) for tenant in tenants]
        prompts = [(each.tenant.name, model.make_prompts(each)) for each in splits if each.train and each.holdout]
        source = str(settings["tenants"])
        sessions = run_sessions(prompts, source, base, first, learner(), out, machine, notify)
    return write()


_EVALUATED_TOKENS_PER_TRAINED = 3.0
"""Evaluation has no backward pass, which takes about twice as long as the forward pass."""


def _plan(tenants: Sequence[Tenant], seeds: Sequence[int], base: str, revision: str, recipe: Recipe) -> list[_Planned]:
    """Plan all tenants with the first seed, then with the next one, so that a part is already an answer."""
    planned = []
    for seed, tenant in product(seeds, tenants):
        split = split_tasks(tenant, seed)
        if split.train and split.holdout:
            planned.append((TenantRun.of(split, base, revision, recipe.model_copy(update={"seed": seed})), split))
    return planned


def _list_missing(planned: Sequence[_Planned], results: Sequence[TenantResult]) -> list[_Planned]:
    over = {result.run.key for result in results if result.is_complete or result.failure}
    return [each for each in planned if each[0].key not in over]


def _list_unfinished(planned: Sequence[_Planned], results: Sequence[TenantResult]) -> list[str]:
    failures = {result.run.key: result.failure for result in results if result.failure}
    complete = {result.run.key for result in results if result.is_complete}
    return [
        run.name + (f" ({failures[run.key]})" if run.key in failures else "")
        for run, _ in planned
        if run.key not in complete
    ]


def _weigh(cost: RunCost) -> float:
    """Return the cost in trained tokens."""
    return cost.trained_tokens + cost.evaluated_tokens / _EVALUATED_TOKENS_PER_TRAINED


def _describe_cost(costs: Sequence[RunCost], tokens_per_s: float) -> str:
    trained, evaluated = (sum(getattr(each, name) for each in costs) for name in ("trained_tokens", "evaluated_tokens"))
    minutes = sum(map(_weigh, costs)) / tokens_per_s / 60
    return (
        f"{len(costs)} runs are missing: {trained:,} tokens to train, {evaluated:,} to evaluate, "
        f"{sum(each.actions for each in costs)} actions; about {minutes:.0f} min at {tokens_per_s:.0f} trained tokens/s"
    )
