"""Statistics on how examples fit into windows, in tokens of a base model."""

from pathlib import Path

import pytest

from looper.jobs.synthesis.output.output_files import synthesize_in_memory
from looper.jobs.synthesis.output.report_page import render_report_page
from looper.jobs.synthesis.output.window_statistics import MAX_EXAMPLES, measure_packing
from tests.jobs.episodes import episode
from tests.tiny import tiny_base


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base") / "tiny")


def examples(count: int, words: int = 1) -> bytes:
    _, files = synthesize_in_memory([[episode(task, words=words) for task in range(count)]], 0)
    return files["train.parquet"]


def test_tokens_windows_and_learned_share_are_measured(base_dir: Path) -> None:
    statistics = measure_packing(examples(5), base_dir, 512)
    assert statistics is not None
    assert (statistics.examples, statistics.windows, statistics.divided, statistics.truncated) == (4, 4, 0, 0)
    assert 0 < statistics.p50 <= statistics.p95 <= statistics.longest <= 512
    assert statistics.fill == pytest.approx(statistics.p50 / 512, rel=0.1)
    assert 0 < statistics.loss < 0.5


def test_long_examples_are_divided_and_truncated(base_dir: Path) -> None:
    whole = measure_packing(examples(5, words=100), base_dir, 1024)
    cropped = measure_packing(examples(5, words=100), base_dir, 32)
    assert whole is not None
    assert cropped is not None
    assert cropped.p50 == whole.p50 > 32
    assert (cropped.divided, cropped.truncated) == (4, 4)
    assert cropped.fill > 0.8


def test_at_most_max_examples_are_measured(base_dir: Path) -> None:
    statistics = measure_packing(examples(MAX_EXAMPLES + 20), base_dir, 512)
    assert statistics is not None
    assert statistics.examples == MAX_EXAMPLES


def test_without_examples_or_base_there_are_no_statistics(base_dir: Path, tmp_path: Path) -> None:
    _, files = synthesize_in_memory([[episode(1, success=False)]], 0)
    assert measure_packing(files["train.parquet"], base_dir, 512) is None
    assert measure_packing(examples(5), tmp_path, 512) is None


def test_the_report_page_shows_packing_statistics(base_dir: Path) -> None:
    report, files = synthesize_in_memory([[episode(task) for task in range(5)]], 0)
    measured = report.model_copy(update={"packing": measure_packing(files["train.parquet"], base_dir, 512)})
    assert "How examples fit into windows" in render_report_page(measured, "it")
    assert "How examples fit into windows" not in render_report_page(report, "it")
