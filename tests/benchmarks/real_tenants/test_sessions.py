"""Tests of the tenants as sessions, with a learner that needs no model."""

from pathlib import Path

from looper.benchmarks.forgetting.plan import RunKind
from looper.benchmarks.real_tenants.arms import ArmPrompts
from looper.benchmarks.real_tenants.sessions import run_sessions
from looper.benchmarks.real_tenants.tenants import load_tenants, split_tasks
from looper.platform.domain.recipe import Recipe
from tests.benchmarks.forgetting.remembering_learner import RememberingLearner
from tests.benchmarks.real_tenants.written_tenants import write_tenants


def test_tenants_are_learned_one_after_the_other(tmp_path: Path) -> None:
    splits = [split_tasks(tenant, 0) for tenant in load_tenants(write_tenants(tmp_path / "tenants"))]
    prompts = [(split.tenant.name, ArmPrompts(split, lambda call: call.name, len)) for split in splits if split.holdout]
    lines: list[str] = []
    learner, out = RememberingLearner(), tmp_path / "out"
    out.mkdir()
    report = run_sessions(prompts, "tenants", "none", Recipe(), learner, out, "a test", lines.append)
    assert [(row.kind, row.strategy) for row in report.rows][1:] == [
        (RunKind.MULTI_TASK, "none"),
        (RunKind.SEQUENCE, "none"),
        (RunKind.SEQUENCE, "replay"),
    ]
    assert [len(row.matrix) for row in report.rows] == [1, 1, 2, 2]
    assert (out / "tenants-forgetting.png").exists()
    assert "sessions, replay, rate 0.002, rank 16, 3 epochs, seed 0: 2 of 2" in lines
    again = run_sessions(prompts, "tenants", "none", Recipe(), learner, out, "a test", lines.append)
    assert [row.matrix for row in again.rows] == [row.matrix for row in report.rows]
