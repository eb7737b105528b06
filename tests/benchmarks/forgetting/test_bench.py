"""Tests of the forgetting benchmark from plan to report, with a learner that needs no model."""

import json
from io import StringIO
from pathlib import Path

import pytest
from filelock import FileLock
from rich.console import Console

from looper.benchmarks.forgetting.bench import bench
from looper.benchmarks.forgetting.plan import (
    GYM_RECIPE,
    NO_STRATEGY,
    STRATEGIES,
    ForgettingRun,
    RunKind,
    base_model_run,
    plan_all_strategies,
    plan_learning_rates,
    plan_seeds,
    plan_steps_and_ranks,
)
from looper.benchmarks.forgetting.report import ForgettingReport, to_table
from looper.benchmarks.forgetting.run import BenchmarkProgress, execute_runs
from looper.benchmarks.forgetting.sources import LearningSession, build_gym_sessions, load_tenant_sessions
from looper.benchmarks.forgetting.summary import best_rates, find_leaders
from looper.platform.domain.errors import InvalidInput
from tests.benchmarks.forgetting.remembering_learner import RememberingLearner

TENANTS = Path(__file__).parents[4] / "shared" / "data" / "tau2-tenants"
COMMON = ForgettingRun(source="harbor/dispatch", base="none", recipe=GYM_RECIPE)


def run_bench(out: Path, learner: RememberingLearner, phase: int = 1, quick: bool = False) -> ForgettingReport:
    return bench(
        "harbor/dispatch",
        "none",
        learner,
        out,
        machine="a test",
        phase=phase,
        quick=quick,
        notify=lambda progress: None,
    )


def load_sessions(run: ForgettingRun) -> list[LearningSession]:
    return build_gym_sessions(run.source, run.recipe.seed)[: run.sessions]


@pytest.fixture(scope="module")
def phase_1_report(tmp_path_factory: pytest.TempPathFactory) -> tuple[ForgettingReport, Path]:
    out = tmp_path_factory.mktemp("phase-1")
    return run_bench(out, RememberingLearner()), out


def test_phase_1_runs_every_strategy_once_and_both_bounds() -> None:
    runs = plan_all_strategies(COMMON)
    assert [run.kind for run in runs[:2]] == [RunKind.BASE, RunKind.MULTI_TASK]
    assert [run.recipe.strategy for run in runs[2:]] == list(STRATEGIES)
    assert NO_STRATEGY in STRATEGIES
    assert len({run.key for run in runs}) == len(runs)


def test_phase_2_uses_the_same_rates_and_seeds_for_all() -> None:
    by_rate = [run for run in plan_learning_rates(COMMON, ["replay", "ella"]) if run.kind is not RunKind.BASE]
    assert len(by_rate) == len({run.key for run in by_rate}) == 4 * 3
    phase_1 = {run.key for run in plan_all_strategies(COMMON)}
    assert sum(run.key in phase_1 for run in by_rate) == 4  # upper bound, lower bound and two find_leaders
    chosen = plan_seeds(by_rate[:4])
    assert len(chosen) == 3 * (4 + 1)  # with the base model
    assert {run.key for run in by_rate[:4]} < {run.key for run in chosen}
    assert len({run.key for run in chosen}) == len(chosen)


def test_phase_3_keeps_the_scale_of_the_update() -> None:
    assert {run.recipe.alpha / run.recipe.rank for run in plan_steps_and_ranks(COMMON)} == {
        GYM_RECIPE.alpha / GYM_RECIPE.rank
    }


def test_the_key_of_a_run_depends_on_its_settings_only() -> None:
    assert COMMON.key == ForgettingRun.model_validate_json(COMMON.model_dump_json()).key
    other = COMMON.model_copy(update={"recipe": GYM_RECIPE.model_copy(update={"seed": 1})})
    assert other.key != COMMON.key
    assert base_model_run(other).key != base_model_run(COMMON).key


def test_the_bounds_have_the_highest_and_the_lowest_accuracy(phase_1_report: tuple[ForgettingReport, Path]) -> None:
    rows = {row.label: row for row in phase_1_report[0].rows}
    assert rows["multi-task (upper bound)"].figures["accuracy"].mean == 1.0
    assert rows["base model"].figures["accuracy"].mean == 0.0
    lower = rows["none (lower bound)"]
    assert lower.figures["accuracy"].mean == pytest.approx(0.2)  # the last session of five
    assert lower.figures["forgetting"].mean == 1.0
    assert lower.figures["backward_transfer"].mean == -1.0
    assert lower.matrix[1] == (0.0, 1.0, 0.0, 0.0, 0.0)


def test_the_strategy_with_the_highest_accuracy_is_the_default(phase_1_report: tuple[ForgettingReport, Path]) -> None:
    report = phase_1_report[0]
    assert report.ratios == {"default_forgetting": 0.0, "default_accuracy_over_multi_task": 1.0}
    learned = [row.strategy for row in report.rows if row.kind is RunKind.SEQUENCE and row.strategy != NO_STRATEGY]
    assert learned[:2] == ["replay", "ella"]


def test_a_recipe_that_cannot_learn_is_reported_and_does_not_stop_the_others(
    phase_1_report: tuple[ForgettingReport, Path],
) -> None:
    (merge,) = [row for row in phase_1_report[0].rows if row.strategy == "merge"]
    assert merge.failures == ("The loss is not finite.",)
    assert merge.figures == {}
    assert phase_1_report[0].rows[-1] == merge


def test_the_report_is_written_as_json_table_markdown_and_charts(phase_1_report: tuple[ForgettingReport, Path]) -> None:
    report, out = phase_1_report
    assert json.loads((out / "forgetting.json").read_text()).keys() == {"machine", "settings", "rows", "ratios"}
    assert ForgettingReport.model_validate_json((out / "forgetting.json").read_text()) == report
    screen = StringIO()
    Console(width=200, file=screen).print(to_table(report))
    for text in (screen.getvalue(), (out / "forgetting.md").read_text()):
        assert all(strategy in text for strategy in STRATEGIES)
    assert (out / "forgetting.png").read_bytes().startswith(b"\x89PNG")


def test_an_interrupted_benchmark_continues_after_the_last_finished_round(tmp_path: Path) -> None:
    uninterrupted = RememberingLearner()
    expected = run_bench(tmp_path / "uninterrupted", uninterrupted, quick=True)
    for _ in range(uninterrupted.train_count - 1):
        with pytest.raises(KeyboardInterrupt):
            run_bench(tmp_path / "interrupted", RememberingLearner(max_train_count=1), quick=True)
    run_bench(tmp_path / "interrupted", RememberingLearner(max_train_count=1), quick=True)
    resumed = run_bench(tmp_path / "interrupted", RememberingLearner(max_train_count=0), quick=True)
    assert [row.model_copy(update={"seconds": 0.0}) for row in resumed.rows] == [
        row.model_copy(update={"seconds": 0.0}) for row in expected.rows
    ]


def test_a_run_that_another_process_executes_comes_last(tmp_path: Path) -> None:
    first, second = ForgettingRun.model_validate(COMMON.model_dump() | {"sessions": 2}), COMMON
    order: list[str] = []
    lock = FileLock(tmp_path / "runs" / first.key / "lock")
    Path(lock.lock_file).parent.mkdir(parents=True)
    lock.acquire()

    def notify(progress: BenchmarkProgress) -> None:
        order.append(progress.run.key)
        lock.release()  # The other process ends without a result.

    results = execute_runs([first, second], load_sessions, RememberingLearner(), tmp_path, notify)
    assert list(dict.fromkeys(order)) == [second.key, first.key]
    assert [len(result.rows) for result in results] == [2, 5]


def test_an_unfinished_round_is_repeated(tmp_path: Path) -> None:
    execute_runs([COMMON], load_sessions, RememberingLearner(), tmp_path, lambda progress: None)
    folder = tmp_path / "runs" / COMMON.key
    (folder / "4.json").rename(folder / "4.json.partial")
    learner = RememberingLearner()
    (result,) = execute_runs([COMMON], load_sessions, learner, tmp_path, lambda progress: None)
    assert (learner.train_count, len(result.rows)) == (1, 5)


def test_progress_reports_the_run_and_its_rounds(tmp_path: Path) -> None:
    notified: list[BenchmarkProgress] = []
    execute_runs([base_model_run(COMMON), COMMON], load_sessions, RememberingLearner(), tmp_path, notified.append)
    assert [(at.run_number, at.run_count, at.finished_rounds, at.round_count) for at in notified] == [
        *[(1, 2, done, 1) for done in range(2)],
        *[(2, 2, done, 5) for done in range(6)],
    ]


def test_leaders_are_compared_over_seeds_and_rates(tmp_path: Path) -> None:
    report = run_bench(tmp_path, RememberingLearner(), phase=2)
    best = {row.label: row for row in best_rates(report.rows)}
    assert best["replay"].seeds == best["multi-task (upper bound)"].seeds == best["base model"].seeds == (0, 1, 2)
    assert best["replay"].figures["accuracy"].std == 0.0
    assert len([row for row in report.rows if row.strategy == "replay"]) == 3
    assert best["ewc"].figures["accuracy"].std is None
    learned = [row for row in report.rows if row.kind is not RunKind.BASE]
    assert {row.learning_rate for row in learned if row.seeds == (0, 1, 2)} == {GYM_RECIPE.learning_rate}


def test_leaders_are_the_best_strategies_that_did_not_fail(tmp_path: Path) -> None:
    runs = plan_all_strategies(COMMON, [NO_STRATEGY, "merge", "ella", "ewc", "replay"])
    results = execute_runs(runs, load_sessions, RememberingLearner(), tmp_path, lambda progress: None)
    assert find_leaders(results, 2) == ["replay", "ella"]


def test_phase_3_fits_a_power_law(tmp_path: Path) -> None:
    report = run_bench(tmp_path, RememberingLearner(), phase=3)
    assert {"power_law_a", "power_law_b", "power_law_c", "power_law_d", "power_law_r2"} == report.ratios.keys()
    assert abs(report.ratios["power_law_d"]) < 0.1  # This learner forgets the same with any rank.
    assert report.ratios["power_law_r2"] > 0.95
    assert (tmp_path / "steps-and-rank.png").read_bytes().startswith(b"\x89PNG")


def test_an_unknown_phase_or_source_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no phase 4: 1 is every strategy once"):
        run_bench(tmp_path, RememberingLearner(), phase=4)
    with pytest.raises(InvalidInput, match="no workplace"):
        build_gym_sessions("harbor/office", 0)
    with pytest.raises(InvalidInput, match="0 folders"):
        load_tenant_sessions(tmp_path / "nowhere")


def test_a_gym_session_holds_out_whole_tasks() -> None:
    for session in build_gym_sessions("orchard/helpdesk", 0):
        train, holdout = ({example.task_id for example in side} for side in (session.train, session.holdout))
        assert train
        assert holdout
        assert not train & holdout


@pytest.mark.skipif(not TENANTS.is_dir(), reason=f"needs the tenants' trajectories in {TENANTS}")
def test_five_tenants_are_five_sessions(tmp_path: Path) -> None:
    report = load_tenant_sessions(TENANTS)
    names = [session.name for session in report]
    assert names == sorted(names)
    assert len(names) == 5
    for session in report:
        assert {example.task_id.partition("/")[0] for example in session.train} == {session.name}
        assert any(turn.tool_calls for example in session.holdout for turn in example.turns)
    run = bench(
        str(TENANTS),
        "none",
        RememberingLearner(),
        tmp_path,
        machine="a test",
        phase=1,
        quick=True,
        notify=lambda progress: None,
    )
    assert run.settings["source"] == TENANTS.name
