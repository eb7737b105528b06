"""The benchmark from plan to report, with a learner that needs no model."""

import json
from io import StringIO
from pathlib import Path

import pytest
from filelock import FileLock
from rich.console import Console

from looper.benchmarks.forgetting.bench import bench
from looper.benchmarks.forgetting.plan import (
    GYM,
    NONE,
    STRATEGIES,
    ForgettingRun,
    RunKind,
    base_of,
    every_strategy,
    rates,
    seeds,
    steps_and_rank,
)
from looper.benchmarks.forgetting.report import ForgettingReport, best_of_each, leaders, to_table
from looper.benchmarks.forgetting.run import BenchmarkProgress, execute
from looper.benchmarks.forgetting.sources import LearningSession, gym_sessions, tenant_sessions
from looper.platform.domain.errors import InvalidInput
from tests.benchmarks.forgetting.remembering_learner import Remembers

TENANTS = Path(__file__).parents[4] / "shared" / "data" / "tau2-tenants"
COMMON = ForgettingRun(source="harbor/dispatch", base="none", recipe=GYM)


def run_bench(out: Path, learner: Remembers, phase: int = 1, quick: bool = False) -> ForgettingReport:
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


def sessions_of(run: ForgettingRun) -> list[LearningSession]:
    return gym_sessions(run.source, run.recipe.seed)[: run.sessions]


@pytest.fixture(scope="module")
def first_table(tmp_path_factory: pytest.TempPathFactory) -> tuple[ForgettingReport, Path]:
    out = tmp_path_factory.mktemp("first-table")
    return run_bench(out, Remembers()), out


def test_phase_1_is_every_strategy_once_and_both_bounds() -> None:
    runs = every_strategy(COMMON)
    assert [run.kind for run in runs[:2]] == [RunKind.BASE, RunKind.MULTI_TASK]
    assert [run.recipe.strategy for run in runs[2:]] == list(STRATEGIES)
    assert NONE in STRATEGIES
    assert len({run.key for run in runs}) == len(runs)


def test_phase_2_gives_everyone_the_same_rates_and_seeds() -> None:
    swept = [run for run in rates(COMMON, ["replay", "ella"]) if run.kind is not RunKind.BASE]
    assert len(swept) == len({run.key for run in swept}) == 4 * 3
    known = {run.key for run in every_strategy(COMMON)}
    assert sum(run.key in known for run in swept) == 4  # upper bound, lower bound and two leaders
    chosen = seeds(swept[:4])
    assert len(chosen) == 3 * (4 + 1)  # with the bare base
    assert {run.key for run in swept[:4]} < {run.key for run in chosen}
    assert len({run.key for run in chosen}) == len(chosen)


def test_phase_3_keeps_the_scale_of_the_update() -> None:
    assert {run.recipe.alpha / run.recipe.rank for run in steps_and_rank(COMMON)} == {GYM.alpha / GYM.rank}


def test_a_run_is_known_by_its_settings_alone() -> None:
    assert COMMON.key == ForgettingRun.model_validate_json(COMMON.model_dump_json()).key
    other = COMMON.model_copy(update={"recipe": GYM.model_copy(update={"seed": 1})})
    assert other.key != COMMON.key
    assert base_of(other).key != base_of(COMMON).key


def test_both_bounds_bound(first_table: tuple[ForgettingReport, Path]) -> None:
    rows = {line.label: line for line in first_table[0].rows}
    assert rows["multi-task (upper bound)"].figures["accuracy"].mean == 1.0
    assert rows["base model"].figures["accuracy"].mean == 0.0
    lower = rows["none (lower bound)"]
    assert lower.figures["accuracy"].mean == pytest.approx(0.2)  # the last month of five
    assert lower.figures["forgetting"].mean == 1.0
    assert lower.figures["backward_transfer"].mean == -1.0
    assert lower.matrix[1] == (0.0, 1.0, 0.0, 0.0, 0.0)


def test_the_strategy_with_the_highest_accuracy_is_the_default(first_table: tuple[ForgettingReport, Path]) -> None:
    found = first_table[0]
    assert found.ratios == {"default_forgetting": 0.0, "default_accuracy_over_multi_task": 1.0}
    learned = [line.strategy for line in found.rows if line.kind is RunKind.SEQUENCE and line.strategy != NONE]
    assert learned[:2] == ["replay", "ella"]


def test_a_recipe_that_cannot_learn_is_named_and_stops_no_other(first_table: tuple[ForgettingReport, Path]) -> None:
    (merge,) = [line for line in first_table[0].rows if line.strategy == "merge"]
    assert merge.failures == ("the loss is no number",)
    assert merge.figures == {}
    assert first_table[0].rows[-1] == merge


def test_the_report_is_json_table_markdown_and_pictures(first_table: tuple[ForgettingReport, Path]) -> None:
    found, out = first_table
    assert json.loads((out / "forgetting.json").read_text()).keys() == {"machine", "settings", "rows", "ratios"}
    assert ForgettingReport.model_validate_json((out / "forgetting.json").read_text()) == found
    screen = StringIO()
    Console(width=200, file=screen).print(to_table(found))
    for text in (screen.getvalue(), (out / "forgetting.md").read_text()):
        assert all(strategy in text for strategy in STRATEGIES)
    assert (out / "forgetting.png").read_bytes().startswith(b"\x89PNG")


def test_what_was_interrupted_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = Remembers()
    undisturbed = run_bench(tmp_path / "whole", whole, quick=True)
    for _ in range(whole.lessons - 1):
        with pytest.raises(KeyboardInterrupt):
            run_bench(tmp_path / "cut", Remembers(patience=1), quick=True)
    run_bench(tmp_path / "cut", Remembers(patience=1), quick=True)
    resumed = run_bench(tmp_path / "cut", Remembers(patience=0), quick=True)
    assert [line.model_copy(update={"seconds": 0.0}) for line in resumed.rows] == [
        line.model_copy(update={"seconds": 0.0}) for line in undisturbed.rows
    ]


def test_a_run_that_another_process_is_at_comes_last(tmp_path: Path) -> None:
    first, second = ForgettingRun.model_validate(COMMON.model_dump() | {"sessions": 2}), COMMON
    order: list[str] = []
    lock = FileLock(tmp_path / "runs" / first.key / "lock")
    Path(lock.lock_file).parent.mkdir(parents=True)
    lock.acquire()

    def notify(at: BenchmarkProgress) -> None:
        order.append(at.run.key)
        lock.release()  # the other process ends with nothing done

    results = execute([first, second], sessions_of, Remembers(), tmp_path, notify)
    assert list(dict.fromkeys(order)) == [second.key, first.key]
    assert [len(result.rows) for result in results] == [2, 5]


def test_a_row_that_was_not_finished_is_lived_again(tmp_path: Path) -> None:
    execute([COMMON], sessions_of, Remembers(), tmp_path, lambda progress: None)
    folder = tmp_path / "runs" / COMMON.key
    (folder / "4.json").rename(folder / "4.json.partial")
    learner = Remembers()
    (result,) = execute([COMMON], sessions_of, learner, tmp_path, lambda progress: None)
    assert (learner.lessons, len(result.rows)) == (1, 5)


def test_progress_names_the_run_and_its_lessons(tmp_path: Path) -> None:
    seen: list[BenchmarkProgress] = []
    execute([base_of(COMMON), COMMON], sessions_of, Remembers(), tmp_path, seen.append)
    assert [(at.place, at.runs, at.done, at.lessons) for at in seen] == [
        *[(1, 2, done, 1) for done in range(2)],
        *[(2, 2, done, 5) for done in range(6)],
    ]


def test_leaders_are_judged_over_seeds_and_rates(tmp_path: Path) -> None:
    found = run_bench(tmp_path, Remembers(), phase=2)
    best = {line.label: line for line in best_of_each(found.rows)}
    assert best["replay"].seeds == best["multi-task (upper bound)"].seeds == best["base model"].seeds == (0, 1, 2)
    assert best["replay"].figures["accuracy"].std == 0.0
    assert len([line for line in found.rows if line.strategy == "replay"]) == 3
    assert best["ewc"].figures["accuracy"].std is None
    learned = [line for line in found.rows if line.kind is not RunKind.BASE]
    assert {line.learning_rate for line in learned if line.seeds == (0, 1, 2)} == {GYM.learning_rate}


def test_leaders_are_the_best_that_learned(tmp_path: Path) -> None:
    runs = every_strategy(COMMON, [NONE, "merge", "ella", "ewc", "replay"])
    results = execute(runs, sessions_of, Remembers(), tmp_path, lambda progress: None)
    assert leaders(results, 2) == ["replay", "ella"]


def test_steps_and_rank_end_in_a_power_law(tmp_path: Path) -> None:
    found = run_bench(tmp_path, Remembers(), phase=3)
    assert {"power_law_a", "power_law_b", "power_law_c", "power_law_d", "power_law_r2"} == found.ratios.keys()
    assert abs(found.ratios["power_law_d"]) < 0.1  # this learner forgets the same at any rank
    assert found.ratios["power_law_r2"] > 0.95
    assert (tmp_path / "steps-and-rank.png").read_bytes().startswith(b"\x89PNG")


def test_a_phase_or_source_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no phase 4: 1 is every strategy once"):
        run_bench(tmp_path, Remembers(), phase=4)
    with pytest.raises(InvalidInput, match="no work place"):
        gym_sessions("harbor/office", 0)
    with pytest.raises(InvalidInput, match="0 folders"):
        tenant_sessions(tmp_path / "nowhere")


def test_a_gym_session_holds_out_whole_tasks() -> None:
    for session in gym_sessions("orchard/helpdesk", 0):
        train, holdout = ({example.task_id for example in side} for side in (session.train, session.holdout))
        assert train
        assert holdout
        assert not train & holdout


@pytest.mark.skipif(not TENANTS.is_dir(), reason=f"needs the tenants' trajectories in {TENANTS}")
def test_five_tenants_are_five_sessions_of_one_agent(tmp_path: Path) -> None:
    found = tenant_sessions(TENANTS)
    names = [session.name for session in found]
    assert names == sorted(names)
    assert len(names) == 5
    for session in found:
        assert {example.task_id.partition("/")[0] for example in session.train} == {session.name}
        assert any(turn.tool_calls for example in session.holdout for turn in example.turns)
    run = bench(
        str(TENANTS),
        "none",
        Remembers(),
        tmp_path,
        machine="a test",
        phase=1,
        quick=True,
        notify=lambda progress: None,
    )
    assert run.settings["source"] == TENANTS.name
