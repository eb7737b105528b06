"""Tests of the report with results that were written by hand."""

import pytest

from looper.benchmarks.real_tenants.actions import ActionResult
from looper.benchmarks.real_tenants.arms import TenantArm
from looper.benchmarks.real_tenants.report import build_report, to_markdown
from looper.benchmarks.real_tenants.run import ArmResult, TenantResult, TenantRun
from looper.platform.domain.recipe import Recipe

RIGHT = {TenantArm.BARE: 2, TenantArm.POLICY: 3, TenantArm.RETRIEVAL: 5, TenantArm.SKILL: 8, TenantArm.BOTH: 6}
"""How many of the 10 actions of each tenant an arm gets right."""


def write_action(tenant: str, number: int, is_right: bool) -> ActionResult:
    return ActionResult(
        task=f"{tenant}/{number // 2}",
        number=number,
        name="find",
        tool=is_right,
        call=False,
        named_tool=is_right,
        named_call=False,
        prompt_tokens=100,
    )


def write_result(tenant: str, missing: dict[TenantArm, set[int]] | None = None) -> TenantResult:
    run = TenantRun(tenant=tenant, base="tiny", revision="1", recipe=Recipe(), data="0")
    arms = {
        arm: ArmResult(
            actions=tuple(
                write_action(tenant, number, number < count)
                for number in range(10)
                if number not in (missing or {}).get(arm, set())
            ),
            left_out=len((missing or {}).get(arm, set())),
            tokens=1000,
            seconds=1.0,
        )
        for arm, count in RIGHT.items()
    }
    return TenantResult(run=run, arms=arms, training=None, failure=None)


def test_arms_are_compared_over_all_tenants() -> None:
    report = build_report([write_result(f"tenant-{i}") for i in range(10)], "a test", {"base": "tiny"}, [], [])
    found = {row.arm: row.figures["tool"].mean for row in report.rows}
    assert found == {arm: pytest.approx(count / 10) for arm, count in RIGHT.items()}
    (summary,) = report.bases
    assert (summary.actions, summary.tasks) == (100, 50)
    assert summary.comparisons["skill - 2 x bare"]["tool"].mean == pytest.approx(0.4)
    assert summary.comparisons["skill - policy"]["tool"].mean == pytest.approx(0.5)
    assert report.ratios["skill_over_bare_tool"] == pytest.approx(4)
    assert report.ratios["skill_over_bare_call"] == 0  # the bare base gets nothing right
    assert 0 < report.ratios["skill_minus_policy_tool_low"] < 0.5
    assert report.ratios["skill_minus_policy_call_low"] == 0
    assert "| skill | 0.800 (" in to_markdown(report)


def test_an_action_that_one_arm_was_not_asked_counts_in_none() -> None:
    report = build_report([write_result("a", {TenantArm.BOTH: {0, 1}})], "a test", {"base": "tiny"}, [], [])
    found = {row.arm: row.figures["tool"].mean for row in report.rows}
    assert found == {arm: pytest.approx((count - 2) / 8) for arm, count in RIGHT.items()}
    assert (report.bases[0].actions, report.bases[0].left_out) == (8, 2)


def test_unfinished_results_are_in_no_figure() -> None:
    whole, part = write_result("a"), write_result("b")
    del part.arms[TenantArm.SKILL]
    report = build_report([whole, part], "a test", {"base": "tiny"}, ["b, seed 0"], ["c"])
    assert list(report.bases[0].tenants) == ["a"]
    assert "in no figure: b, seed 0." in to_markdown(report)
    assert build_report([part], "a test", {"base": "tiny"}, ["b, seed 0"], []).ratios == {}
