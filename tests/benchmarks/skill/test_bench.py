"""Tests of the skill benchmark from plan to report, at an endpoint whose models read their prompts."""

import json
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree

import openai
import pytest
from typer.testing import CliRunner

from looper.benchmarks.skill.chat import MeteredChat
from looper.benchmarks.skill.commands import bench_endpoint
from looper.benchmarks.skill.report import SkillBenchReport
from looper.benchmarks.skill.summary import ArmSummary
from looper.cli import app
from looper.gym.workplaces import DISPATCH
from looper.platform.domain.errors import InvalidInput, LooperError
from tests.benchmarks.skill.reading_endpoint import ReadingModels, serve_models

NAMES = ["small", "harbor/dispatch-0", "harbor/dispatch-bare-0"]


def run_quick(url: str, out: Path) -> SkillBenchReport:
    return bench_endpoint(url, "none", "small", [], out, quick=True, notify=lambda text: None)


@pytest.fixture(scope="module")
def models() -> ReadingModels:
    return ReadingModels(DISPATCH)


@pytest.fixture(scope="module")
def url(models: ReadingModels) -> Iterator[str]:
    with serve_models(models, [*NAMES, "large"]) as address:
        yield address


@pytest.fixture(scope="module")
def quick(url: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[SkillBenchReport, Path]:
    out = tmp_path_factory.mktemp("quick")
    return run_quick(url, out), out


def find_row(report: SkillBenchReport, name: str) -> ArmSummary:
    (row,) = [row for row in report.rows if row.arm == name]
    return row


def test_what_a_model_can_read_decides_what_it_gets_right(quick: tuple[SkillBenchReport, Path]) -> None:
    strict = {row.arm: row.strict for row in quick[0].rows}
    assert strict["base"] == strict["base + call format"] == 0
    assert strict["base + notes"] == strict["skill"] == strict["skill + notes"] == 1
    assert strict["base + retrieval 1"] == strict["base + retrieval 8"] == strict["base + retrieval 4 as text"] == 1
    assert strict["base + shuffled notes"] == strict["base + wrong demonstrations"] == 0
    assert strict["skill + shuffled notes"] == strict["skill + wrong demonstrations"] == 1
    assert strict["base + newer note"] == strict["skill + newer note"] == 1
    assert strict["bare-taught skill"] == 1
    assert strict["bare-taught skill + notes"] == 0


def test_the_table_is_sorted_by_strict_success_and_then_by_tokens(quick: tuple[SkillBenchReport, Path]) -> None:
    keys = [(-row.strict, row.prompt_tokens) for row in quick[0].rows]
    assert keys == sorted(keys)


def test_the_ratios_are_those_of_the_contract(quick: tuple[SkillBenchReport, Path]) -> None:
    ratios = quick[0].ratios
    assert ratios["bare_strict"] == 0
    assert ratios["best_knowledge_strict"] == ratios["skill_strict"] == ratios["skill_with_notes_strict"] == 1
    assert ratios["skill_with_retrieval_strict"] == ratios["skill_newer_note_strict"] == 1
    notes, skill = find_row(quick[0], "base + notes"), find_row(quick[0], "skill")
    assert ratios["prompt_tokens_over_best_knowledge"] == skill.prompt_tokens / notes.prompt_tokens < 1


def test_costs_come_from_the_endpoints_usage(quick: tuple[SkillBenchReport, Path]) -> None:
    bare, eight = find_row(quick[0], "base"), find_row(quick[0], "base + retrieval 8")
    assert bare.turns == 1
    assert eight.prompt_tokens > 5 * bare.prompt_tokens
    assert bare.uncached_prompt_tokens == pytest.approx(bare.prompt_tokens / 2, rel=0.01)
    assert bare.learning_tokens == 0
    assert find_row(quick[0], "skill").learning_tokens is None


def test_the_lead_over_the_skill_is_paired_by_task(quick: tuple[SkillBenchReport, Path]) -> None:
    base, skill = find_row(quick[0], "base"), find_row(quick[0], "skill")
    assert (base.over_skill, base.over_skill_low, base.over_skill_high) == (-1, -1, -1)
    assert (skill.over_skill, skill.over_skill_low, skill.over_skill_high) == (0, 0, 0)


def test_the_report_is_written_as_json_markdown_and_picture(quick: tuple[SkillBenchReport, Path]) -> None:
    report, out = quick
    assert json.loads((out / "skill.json").read_text()).keys() == {"machine", "settings", "rows", "ratios", "skipped"}
    assert SkillBenchReport.model_validate_json((out / "skill.json").read_text()) == report
    text = (out / "skill.md").read_text()
    assert all(f"| {row.arm}" in text for row in report.rows)
    assert "base + shuffled notes (on purpose)" in text
    assert (out / "skill.png").read_bytes().startswith(b"\x89PNG")


def test_a_second_run_plays_only_what_is_missing(
    quick: tuple[SkillBenchReport, Path], models: ReadingModels, url: str, tmp_path: Path
) -> None:
    first, out = quick
    copytree(out, tmp_path, dirs_exist_ok=True)
    lines = (tmp_path / "episodes.jsonl").read_bytes().splitlines(keepends=True)
    cut = b"".join(lines[:-3]) + lines[-3][:40]  # two lines are gone, and one is cut off
    (tmp_path / "episodes.jsonl").write_bytes(cut)
    asked = len(models.prompts)
    second = run_quick(url, tmp_path)
    assert 0 < len(models.prompts) - asked <= 3 * 8
    asked = len(models.prompts)
    run_quick(url, tmp_path)
    assert len(models.prompts) == asked
    assert [(row.arm, row.strict, row.tasks) for row in second.rows] == [
        (row.arm, row.strict, row.tasks) for row in first.rows
    ]
    assert len((tmp_path / "episodes.jsonl").read_bytes().splitlines()) == len(lines) + 1  # with the cut one


def test_a_skill_that_its_gate_refused_is_told(quick: tuple[SkillBenchReport, Path], url: str, tmp_path: Path) -> None:
    """Its arms are answered by the base model, as in life. Their success says nothing about a skill."""
    copytree(quick[1], tmp_path, dirs_exist_ok=True)
    episodes = (tmp_path / "episodes.jsonl").read_text()
    (tmp_path / "episodes.jsonl").write_text(episodes.replace('"model":"harbor/dispatch-0"', '"model":"small"'))
    report = run_quick(url, tmp_path)
    assert find_row(report, "skill").without_skill == find_row(report, "skill").tasks
    assert find_row(report, "base").without_skill == find_row(report, "bare-taught skill").without_skill == 0
    assert "(10 without it: refused by its gate)" in (tmp_path / "skill.md").read_text()


def test_an_interrupted_run_has_a_report_of_the_arms_so_far(url: str, tmp_path: Path) -> None:
    def stop_at_the_third_arm(text: str) -> None:
        if text.startswith("arm 3 "):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench_endpoint(url, "none", "small", [], tmp_path, quick=True, notify=stop_at_the_third_arm)
    report = SkillBenchReport.model_validate_json((tmp_path / "skill.json").read_text())
    assert [row.tasks for row in report.rows] == [10, 10]


def test_an_endpoint_that_is_gone_is_told_in_one_line() -> None:
    with (
        openai.OpenAI(base_url="http://127.0.0.1:1", api_key="none", max_retries=0) as client,
        pytest.raises(LooperError, match="model small did not answer: Connection error") as told,
    ):
        MeteredChat(client, "small").write("Go.", max_tokens=1)
    assert "\n" not in str(told.value)


def test_other_settings_need_another_folder(quick: tuple[SkillBenchReport, Path], url: str) -> None:
    with pytest.raises(InvalidInput, match="base 'small', and not 'large': name another folder with --out"):
        bench_endpoint(url, "none", "large", [], quick[1], quick=True, notify=lambda text: None)


def test_arms_without_an_adapter_are_left_out_with_the_reason(tmp_path: Path) -> None:
    with serve_models(ReadingModels(DISPATCH), ["small"]) as url:
        report = run_quick(url, tmp_path)
    assert {row.adapter for row in report.rows} == {"base"}
    assert "has none under the benchmark's name" in report.skipped["skill + notes"]
    assert report.ratios.keys() == {"bare_strict", "best_knowledge_strict"}
    assert find_row(report, "base").over_skill is None


def test_mistakes_are_told_in_one_line(tmp_path: Path) -> None:
    with serve_models(ReadingModels(DISPATCH), ["small"]) as url:
        with pytest.raises(LooperError, match="has no model 'large': it has small"):
            bench_endpoint(url, "none", "large", [], tmp_path / "a", quick=True, notify=lambda text: None)
        with pytest.raises(InvalidInput, match="add --model"):
            bench_endpoint(url, "none", None, [], tmp_path / "b", quick=True, notify=lambda text: None)
        with pytest.raises(InvalidInput, match="world 'harbor/office' does not exist: choose from harbor/dispatch"):
            bench_endpoint(url, "none", "small", ["harbor/office"], tmp_path, quick=True, notify=lambda text: None)


def test_the_command_prints_json_and_a_table(quick: tuple[SkillBenchReport, Path], url: str) -> None:
    words = ["bench", "skill", "--quick", "--url", url, "--model", "small", "--out", str(quick[1])]
    table = CliRunner().invoke(app, words)
    printed = CliRunner().invoke(app, [*words, "--json"])
    assert table.exit_code == printed.exit_code == 0
    assert "skill + notes" in table.stdout
    assert "best_knowledge_strict: 1" in table.stdout
    assert SkillBenchReport.model_validate_json(printed.stdout).settings["base"] == "small"
