"""Real trajectories of other projects, in a folder next to the repository. None of them may be lost."""

from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from looper.benchmarks.ingestion import markdown_lines
from looper.platform.domain.trajectory import Trajectory
from looper.platform.trajectories.ingest import read_path
from looper.platform.trajectories.report import FileReport
from looper.platform.trajectories.table import from_parquet, to_parquet

DATA = Path(__file__).parents[3] / ".." / "shared" / "data"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the evaluation data (../shared/data) is not here")

# Number of trajectories in each file, counted in the files. The 34 are runs that crashed before their first message.
EMPTY = {"tau-bench/retail-assertions.json": 34}
COUNTS = {
    "openhands/basic.json": 1,
    "openhands/multi-swe-bench.jsonl": 3,
    "swe-agent/function-calling-simple.traj": 1,
    "swe-agent/humanevalfix.traj": 1,
    "swe-agent/marshmallow-1867-default.traj": 1,
    "swe-agent/marshmallow-1867-function-calling.traj": 1,
    "swe-agent/marshmallow-1867-xml.traj": 1,
    "swe-smith/pydantic-8316.traj": 1,
    "tau-bench/gpt-4o-airline.json": 200,
    "tau-bench/retail-assertions.json": 100,
    "tau-bench/retail-tool-calling.json": 100,
    "tau2-tenants/academy/simulations.json": 10,
    "tau2-tenants/boutique/simulations.json": 20,
    "tau2-tenants/cable/simulations.json": 15,
    "tau2-tenants/clinic/simulations.json": 13,
    **{f"tau2-tenants/filters/simulations-{n:02}.json": 1 for n in range(15)},
    "tau2-tenants/fishtrader/simulations.json": 15,
    "tau2-tenants/fuelstation/simulations.json": 20,
    "tau2-tenants/hotel/simulations.json": 10,
    "tau2-tenants/pharmacy/simulations.json": 15,
    "tau2-tenants/restaurant/simulations.json": 12,
}


@cache
def everything() -> dict[str, tuple[FileReport, list[Trajectory]]]:
    return {str(Path(report.path).relative_to(DATA)): (report, kept) for report, kept in read_path(DATA)}


def test_every_trajectory_is_kept_or_empty() -> None:
    reports = {name: report for name, (report, _) in everything().items() if report.format}
    assert {name: report.trajectories for name, report in reports.items()} == COUNTS
    assert {name: report.reasons["empty"] for name, report in reports.items() if report.reasons} == EMPTY
    assert all(report.trajectories == report.kept + report.rejected for report in reports.values())


def test_every_other_file_is_reported() -> None:
    others = {name for name, (report, _) in everything().items() if not report.format}
    assert others | set(COUNTS) == {str(file.relative_to(DATA)) for file in DATA.rglob("*") if file.is_file()}
    assert all(everything()[name][0].reasons == {"not_a_trajectory_file": 1} for name in others)


def test_outcomes_are_those_of_the_sources() -> None:
    airline = everything()["tau-bench/gpt-4o-airline.json"][1]
    assert Counter(t.outcome.success for t in airline) == {True: 84, False: 116}
    assert len({t.task_id for t in airline}) == 50
    assert [t.outcome.success for t in everything()["swe-smith/pydantic-8316.traj"][1]] == [True]
    unlabelled = [
        t for name, (_, kept) in everything().items() if name.startswith(("swe-agent", "openh")) for t in kept
    ]
    assert {t.outcome.success for t in unlabelled} == {None}


def test_three_styles_of_one_task_share_its_id() -> None:
    styles = [everything()[f"swe-agent/marshmallow-1867-{style}.traj"][1] for style in ("default", "xml")]
    [calling] = everything()["swe-agent/marshmallow-1867-function-calling.traj"][1]
    assert {t.task_id for style in styles for t in style} == {calling.task_id}


def test_calls_of_tau2_users_keep_their_requestor() -> None:
    count = Counter(
        (step.source, step.requestor)
        for name, (_, kept) in everything().items()
        if name.startswith("tau2-tenants/restaurant")
        for trajectory in kept
        for step in trajectory.steps
    )
    assert (count["user", "user"], count["tool", "user"], count["tool", "agent"]) == (8, 8, 34)


def test_every_result_answers_one_call_before_it() -> None:
    for _, kept in everything().values():
        for trajectory in kept:
            made: list[str] = []
            for step in trajectory.steps:
                if step.source == "tool":
                    assert step.call_id in made
                made += [call.id for call in step.tool_calls]
            assert len(made) == len(set(made))


def test_all_trajectories_survive_parquet() -> None:
    kept = [trajectory for _, trajectories in everything().values() for trajectory in trajectories]
    assert len(kept) == 521
    assert from_parquet(to_parquet(kept)) == kept


def test_the_table_in_the_documentation_is_up_to_date() -> None:
    page = (Path(__file__).parents[3] / "docs" / "ingestion.md").read_text()
    assert "\n".join(markdown_lines(DATA)) in page
