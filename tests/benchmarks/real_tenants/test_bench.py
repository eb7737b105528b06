"""Tests of the benchmark from folders to report, with a tiny base model that is really trained."""

import json
from pathlib import Path

import pytest

from looper.benchmarks.real_tenants.actions import EncodedActions
from looper.benchmarks.real_tenants.arms import TenantArm
from looper.benchmarks.real_tenants.bench import bench
from looper.benchmarks.real_tenants.model import SkillTraining, TenantModel
from looper.benchmarks.real_tenants.report import MEASURES, TenantsReport, to_markdown
from looper.benchmarks.real_tenants.run import TenantRun, load_results
from looper.benchmarks.real_tenants.tenants import load_tenants, split_tasks
from looper.jobs.consolidation.adapters.lora import Lora
from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.recipe import Recipe
from tests.benchmarks.real_tenants.written_tenants import write_tenants
from tests.tiny import FLOAT32, tiny_base

RECIPE = Recipe(rank=4, alpha=8, epochs=30, learning_rate=1e-2, max_seq_length=512)


class CountingModel(TenantModel):
    """Counts what is trained, and can refuse to."""

    trained = 0
    refuses = False

    def train(self, windows: list[Window], examples: int, recipe: Recipe) -> tuple[Lora, SkillTraining]:  # type: ignore[override]
        if self.refuses:
            raise InvalidInput("the loss is not finite")
        self.trained += recipe.max_steps != 1  # one step measures the rate
        return super().train(windows, examples, recipe)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tenants(tmp_path_factory.mktemp("tenants"))


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def base(model_dir: Path) -> SharedBase:
    return SharedBase(model_dir, FLOAT32)


@pytest.fixture
def model(one_process: None, model_dir: Path, base: SharedBase) -> CountingModel:
    return CountingModel(model_dir, base, max_rank=4)


def run(
    folder: Path, model: TenantModel, out: Path, name: str = "tiny", recipe: Recipe = RECIPE, quick: bool = False
) -> tuple[TenantsReport, list[str]]:
    lines: list[str] = []
    report = bench(
        folder, name, model, out, recipe=recipe, seeds=(0,), machine="a test", quick=quick, notify=lines.append
    )
    return report, lines


@pytest.fixture(scope="module")
def finished(
    one_process: None, model_dir: Path, base: SharedBase, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TenantsReport, Path]:
    out = tmp_path_factory.mktemp("out")
    report, _ = run(folder, CountingModel(model_dir, base, max_rank=4), out)
    return report, out


def test_a_skill_gets_right_what_its_tenants_do(finished: tuple[TenantsReport, Path]) -> None:
    report, _ = finished
    by_arm = {row.arm: row for row in report.rows}
    assert list(by_arm) == list(TenantArm)
    assert by_arm[TenantArm.BARE].figures["tool"].mean == 0
    assert by_arm[TenantArm.SKILL].figures["tool"].mean > 0.5
    assert report.bases[0].comparisons["skill - 2 x bare"]["tool"].is_above_zero
    assert report.bases[0].comparisons["skill - policy"]["tool"].is_above_zero
    for row in report.rows:  # each is a part of the other
        assert row.figures["call"].mean <= row.figures["tool"].mean <= row.figures["named_tool"].mean
        assert row.figures["call"].mean <= row.figures["named_call"].mean <= row.figures["named_tool"].mean
    assert (
        by_arm[TenantArm.BARE].prompt_tokens
        == by_arm[TenantArm.SKILL].prompt_tokens
        < by_arm[TenantArm.POLICY].prompt_tokens
    )


def test_the_report_says_what_is_missing_and_what_cannot_be_measured(finished: tuple[TenantsReport, Path]) -> None:
    report, out = finished
    assert report.without_actions == ["silent"]
    assert report.unfinished == []
    assert report.bases[0].tenant_actions == {"bakery": 4, "garage": 4}  # two tasks with two calls
    assert (out / "tenants.png").stat().st_size > 1000
    assert (out / "tenants.md").read_text() == to_markdown(report)
    stored = json.loads((out / "tenants.json").read_text())
    assert {"machine", "settings", "rows", "ratios"} <= stored.keys()
    assert set(stored["rows"][0]["figures"]) == set(MEASURES)


def test_the_same_command_measures_only_what_is_missing(
    finished: tuple[TenantsReport, Path], folder: Path, model: CountingModel, tmp_path: Path
) -> None:
    report, done = finished
    out = tmp_path / "out"
    out.mkdir()
    for file in done.rglob("*"):
        if file.is_file():
            copy = out / file.relative_to(done)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    again, lines = run(folder, model, out)
    assert again == report
    assert (model.trained, lines) == (0, [])
    (bakery,) = [each.run.key for each in load_results(out) if each.run.tenant == "bakery"]
    (out / "runs" / bakery / "both.json").unlink()
    again, lines = run(folder, model, out)
    assert model.trained == 0  # the skill is on disk
    assert [line for line in lines if "tokens" in line and "garage" in line] == []
    assert [row.figures for row in again.rows] == [row.figures for row in report.rows]
    (out / "runs" / bakery / "skill.json").unlink()
    (out / "runs" / bakery / "skill" / "training.json").unlink()
    again, _ = run(folder, model, out)
    assert model.trained == 1
    assert [row.figures for row in again.rows] == [row.figures for row in report.rows]


def test_another_base_adds_its_rows_to_the_report(
    finished: tuple[TenantsReport, Path], folder: Path, model: CountingModel
) -> None:
    _, out = finished
    report, _ = run(folder, model, out, name="other")
    assert [each.base for each in report.bases] == ["other", "tiny"]
    assert len(report.rows) == 2 * len(TenantArm)
    assert "## other" in to_markdown(report)
    assert "## tiny" in to_markdown(report)


def test_a_recipe_that_cannot_learn_is_reported(folder: Path, model: CountingModel, tmp_path: Path) -> None:
    model.refuses = True
    model.measure_rate = lambda *_: 1.0  # type: ignore[method-assign]
    report, _ = run(folder, model, tmp_path, quick=True)
    assert report.rows == []
    assert report.unfinished == [f"{name}, seed 0 (the loss is not finite)" for name in ("bakery", "garage")]
    assert "in no figure: bakery, seed 0" in to_markdown(report)


def test_quick_takes_a_few_steps(folder: Path, model: CountingModel, tmp_path: Path) -> None:
    report, lines = run(folder, model, tmp_path, quick=True)
    assert {each.training.steps for each in load_results(tmp_path) if each.training} == {4}
    assert report.settings["max_steps"] == 4
    assert "2 runs are missing" in lines[0]


def test_other_data_is_another_run(folder: Path) -> None:
    tenant = load_tenants(folder)[0]
    keys = {TenantRun.of(split_tasks(tenant, seed), "a", "b", RECIPE).key for seed in (0, 1)}
    assert len(keys) == 2
    split = split_tasks(tenant, 0)
    assert (
        TenantRun.of(split, "a", "b", RECIPE).question
        == TenantRun.of(split, "c", "d", RECIPE).question
        != TenantRun.of(split, "a", "b", Recipe()).question
    )


def test_names_and_arguments_are_told_apart(folder: Path, model: CountingModel) -> None:
    """The spans of each action, as text."""
    prompts = model.make_prompts(split_tasks(load_tenants(folder)[0], 0))
    encoded: EncodedActions = model.encode_actions(prompts, TenantArm.BARE)
    decode = model._renderer.tokenizer.decode
    texts = [decode(window.tokens[start:end].tolist()) for window in encoded.windows for start, end in window.calls]
    assert len(texts) == 4 * len(encoded) == 4 * 4
    for number, name in ((0, "find_order"), (1, "close_order")):  # the second one follows a text and a new line
        tool, call, named_tool, named_call = texts[4 * number : 4 * number + 4]
        assert tool.startswith(f'<tool_call>\n{{"name": "{name}"')
        assert call.startswith(tool)
        assert call.endswith("</tool_call>")
        assert named_tool.lstrip(' "').startswith(name)
        assert named_call.startswith(named_tool)
        assert call.endswith(named_call)
        assert "arguments" not in tool
