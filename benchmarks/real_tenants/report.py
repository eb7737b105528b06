"""Report the results: every arm with its intervals, over all tenants taken together and for each one.

``bench.py`` builds the report of the results of ``run.py`` and writes it as JSON and as Markdown; ``chart.py`` draws
it. Arms are compared on the same actions only: those of runs in which all arms are finished.
"""

from collections.abc import Sequence
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from looper.benchmarks.forgetting.report import ForgettingReport
from looper.benchmarks.forgetting.report import to_markdown as forgetting_to_markdown
from looper.benchmarks.real_tenants.actions import ActionResult
from looper.benchmarks.real_tenants.arms import TenantArm
from looper.benchmarks.real_tenants.intervals import ShareInterval, TaskBootstrap
from looper.benchmarks.real_tenants.run import TenantResult

MEASURES = {
    "tool": "tool",
    "call": "tool and arguments",
    "named_tool": "tool, given that it calls",
    "named_call": "tool and arguments, given that it calls",
}
"""What is measured of each action, by the fields of ``ActionResult``, with headings."""

_COMPARISONS = {
    "skill - 2 x bare": (TenantArm.SKILL, 2.0, TenantArm.BARE),
    "skill - bare": (TenantArm.SKILL, 1.0, TenantArm.BARE),
    "skill - policy": (TenantArm.SKILL, 1.0, TenantArm.POLICY),
    "skill - retrieval": (TenantArm.SKILL, 1.0, TenantArm.RETRIEVAL),
    "both - skill": (TenantArm.BOTH, 1.0, TenantArm.SKILL),
    "both - retrieval": (TenantArm.BOTH, 1.0, TenantArm.RETRIEVAL),
}


class ArmRow(BaseModel):
    """One arm on the actions of all tenants."""

    model_config = ConfigDict(frozen=True)

    base: str
    """Name of the base model."""
    arm: TenantArm
    """The arm."""
    figures: dict[str, ShareInterval]
    """Share of right actions, by the names in ``MEASURES``."""
    prompt_tokens: float
    """Mean tokens before a call."""


class BaseSummary(BaseModel):
    """All results of one base model."""

    model_config = ConfigDict(frozen=True)

    base: str
    """Name of the base model."""
    revision: str
    """Its revision."""
    runs: int
    """Runs in which all arms are finished."""
    actions: int
    """Actions of those runs."""
    tasks: int
    """Their tasks."""
    comparisons: dict[str, dict[str, ShareInterval]]
    """Paired differences between arms, by their name and the names in ``MEASURES``."""
    tenants: dict[str, dict[TenantArm, dict[str, float]]]
    """Share of right actions by tenant, arm and measure."""
    tenant_actions: dict[str, int]
    """Number of actions by tenant."""
    trained_tokens: int
    """Tokens of all trainings."""
    training_s: float
    """Duration of all trainings, in seconds."""
    evaluated_tokens: int
    """Tokens of all evaluations."""
    evaluating_s: float
    """Duration of all evaluations, in seconds."""
    left_out: int
    """Actions that could not be encoded in every arm."""


class TenantsReport(BaseModel):
    """The content of ``tenants.json``."""

    model_config = ConfigDict(frozen=True)

    machine: str
    """Description of the machine."""
    settings: dict[str, str | int | float]
    """Settings that all runs share."""
    rows: list[ArmRow]
    """One row for each arm and base model."""
    bases: list[BaseSummary]
    """One summary for each base model."""
    unfinished: list[str]
    """Planned runs in which not all arms are finished, and why if that is known."""
    without_actions: list[str]
    """Tenants whose agents never call a tool: nothing can be measured of them."""
    ratios: dict[str, float]
    """For the base model of the command: ``skill_over_bare_*``, ``skill_over_policy_*`` (0 if the other gets nothing
    right), and ``*_low``, the lower ends of the intervals of the differences that must be above 0."""
    forgetting: ForgettingReport | None = None
    """The tenants as the sessions of one agent, where that was asked for."""


def build_report(
    results: Sequence[TenantResult],
    machine: str,
    settings: dict[str, str | int | float],
    unfinished: Sequence[str],
    without_actions: Sequence[str],
    forgetting: ForgettingReport | None = None,
) -> TenantsReport:
    """Build the report.

    Args:
        results: Results of the planned runs, of all base models.
        machine: Description of the machine.
        settings: Settings that all runs share, with the name of the command's ``base``.
        unfinished: Planned runs that are not complete.
        without_actions: Tenants without any tool call.
        forgetting: The tenants as sessions, or None.

    Returns:
        The report.
    """
    complete = [keep_common_actions(result) for result in results if result.is_complete]
    complete = [result for result in complete if result.arms[TenantArm.BARE].actions]
    bases = sorted({(each.run.base, each.run.revision) for each in complete})
    rows, summaries = [], []
    for base in bases:
        of_base = [each for each in complete if (each.run.base, each.run.revision) == base]
        arms, summary = _summarize(*base, of_base)
        rows += arms
        summaries.append(summary)
    mine = [row for row in rows if row.base == settings["base"]]
    comparisons = next((each.comparisons for each in summaries if each.base == settings["base"]), {})
    return TenantsReport(
        machine=machine,
        settings=settings,
        rows=rows,
        bases=summaries,
        unfinished=list(unfinished),
        without_actions=list(without_actions),
        ratios=_ratios(mine, comparisons),
        forgetting=forgetting,
    )


def keep_common_actions(result: TenantResult) -> TenantResult:
    """Keep the actions that all arms were asked: one whose longer prompt could not be encoded counts in no arm.

    Args:
        result: A complete result.

    Returns:
        The result with the same actions in all arms.
    """
    common = set.intersection(*({each.number for each in arm.actions} for arm in result.arms.values()))
    arms = {
        name: arm.model_copy(
            update={
                "actions": tuple(each for each in arm.actions if each.number in common),
                "left_out": arm.left_out + len(arm.actions) - len(common),
            }
        )
        for name, arm in result.arms.items()
    }
    return result.model_copy(update={"arms": arms})


def _summarize(base: str, revision: str, results: Sequence[TenantResult]) -> tuple[list[ArmRow], BaseSummary]:
    actions = {arm: [action for each in results for action in each.arms[arm].actions] for arm in TenantArm}
    bootstrap = TaskBootstrap([action.task for action in actions[TenantArm.BARE]])
    right = {arm: {name: _right(of_arm, name) for name in MEASURES} for arm, of_arm in actions.items()}
    rows = [
        ArmRow(
            base=base,
            arm=arm,
            figures={name: bootstrap.interval(values) for name, values in right[arm].items()},
            prompt_tokens=fmean(action.prompt_tokens for action in actions[arm]),
        )
        for arm in TenantArm
    ]
    comparisons = {
        label: {name: bootstrap.interval(right[a][name] - factor * right[b][name]) for name in MEASURES}
        for label, (a, factor, b) in _COMPARISONS.items()
    }
    names = sorted({each.run.tenant for each in results})
    of_tenant = {name: [each for each in results if each.run.tenant == name] for name in names}
    trainings = [each.training for each in results if each.training is not None]
    arms = [arm for each in results for arm in each.arms.values()]
    return rows, BaseSummary(
        base=base,
        revision=revision,
        runs=len(results),
        actions=len(actions[TenantArm.BARE]),
        tasks=bootstrap.tasks,
        comparisons=comparisons,
        tenants={name: {arm: _shares(each, arm) for arm in TenantArm} for name, each in of_tenant.items()},
        tenant_actions={
            name: sum(len(r.arms[TenantArm.BARE].actions) for r in each) for name, each in of_tenant.items()
        },
        trained_tokens=sum(each.tokens for each in trainings),
        training_s=sum(each.seconds for each in trainings),
        evaluated_tokens=sum(arm.tokens for arm in arms),
        evaluating_s=sum(arm.seconds for arm in arms),
        left_out=sum(each.arms[TenantArm.BARE].left_out for each in results),
    )


def _right(actions: Sequence[ActionResult], measure: str) -> NDArray[np.float64]:
    return np.asarray([getattr(action, measure) for action in actions], np.float64)


def _shares(results: Sequence[TenantResult], arm: TenantArm) -> dict[str, float]:
    actions = [action for each in results for action in each.arms[arm].actions]
    return {name: float(_right(actions, name).mean()) for name in MEASURES}


def _ratios(rows: Sequence[ArmRow], comparisons: dict[str, dict[str, ShareInterval]]) -> dict[str, float]:
    by_arm = {row.arm: row.figures for row in rows}
    if not by_arm:
        return {}
    found: dict[str, float] = {}
    for name in MEASURES:
        for other in (TenantArm.BARE, TenantArm.POLICY):
            beside = by_arm[other][name].mean
            found[f"skill_over_{other}_{name}"] = by_arm[TenantArm.SKILL][name].mean / beside if beside else 0.0
        found[f"skill_minus_twice_bare_{name}_low"] = comparisons["skill - 2 x bare"][name].low
        found[f"skill_minus_policy_{name}_low"] = comparisons["skill - policy"][name].low
    return found


def to_markdown(report: TenantsReport) -> str:
    """Format the report as a page.

    Args:
        report: The report.

    Returns:
        Markdown.
    """
    settings = ", ".join(f"{name} {value}" for name, value in report.settings.items())
    lines = [
        "# Real tenants",
        "",
        "What a skill adds on real trajectories of small businesses (tau2 simulations): shares of right next actions",
        "on held-out tasks, with 95 % intervals (paired bootstrap over tasks). All arms are told the tools and the",
        "form of a call. [Results](README.md) says how it was measured; [tenants.json](tenants.json) has all figures.",
        "",
        f"Machine: {report.machine}. {settings}.",
    ]
    if report.unfinished:
        lines += ["", f"Not finished, and in no figure: {'; '.join(report.unfinished)}."]
    if report.without_actions:
        lines += ["", f"Without any tool call, and so in no figure: {', '.join(report.without_actions)}."]
    for summary in report.bases:
        lines += _base_section(summary, [row for row in report.rows if row.base == summary.base])
    if report.bases:
        lines += ["", "![Shares of right actions by arm](tenants.png)"]
    if report.forgetting is not None:
        lines += ["", "## The tenants as the sessions of one agent", "", forgetting_to_markdown(report.forgetting)]
    return "\n".join(lines).rstrip() + "\n"


def _base_section(summary: BaseSummary, rows: Sequence[ArmRow]) -> list[str]:
    lines = [
        "",
        f"## {summary.base}",
        "",
        f"{summary.actions} actions of {summary.tasks} held-out tasks, {len(summary.tenants)} tenants, {summary.runs} "
        f"trainings of together {summary.trained_tokens:,} tokens in {summary.training_s:,.0f} s; "
        f"{summary.evaluated_tokens:,} tokens evaluated in {summary.evaluating_s:,.0f} s.",
    ]
    if summary.left_out:
        lines += ["", f"{summary.left_out} further actions could not be encoded for this base model in every arm."]
    lines += _table(
        ["arm", *MEASURES.values(), "prompt tokens"],
        [[row.arm, *(str(row.figures[m]) for m in MEASURES), f"{row.prompt_tokens:.0f}"] for row in rows],
    )
    lines += _table(
        ["difference", *MEASURES.values()],
        [[label, *(str(of[name]) for name in MEASURES)] for label, of in summary.comparisons.items()],
    )
    lines += ["", "By tenant, tool / tool and arguments:"]
    return lines + _table(
        ["tenant", "actions", *TenantArm],
        [
            [
                name,
                str(summary.tenant_actions[name]),
                *(f"{of[arm]['tool']:.2f} / {of[arm]['call']:.2f}" for arm in TenantArm),
            ]
            for name, of in summary.tenants.items()
        ],
    )


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        "",
        f"| {' | '.join(headings)} |",
        f"| --- |{' ---: |' * (len(headings) - 1)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
