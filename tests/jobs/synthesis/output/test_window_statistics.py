"""Statistics on how examples fit into windows, in tokens of a base model."""

from pathlib import Path

import pytest

from looper.jobs.consolidation.data.window_table import WindowTable, write_windows
from looper.jobs.synthesis.output.encode_files import FileEncoder
from looper.jobs.synthesis.output.output_files import synthesize_in_memory
from looper.jobs.synthesis.output.report_page import render_report_page
from looper.jobs.synthesis.output.window_statistics import measure_packing
from tests.jobs.episodes import episode
from tests.tiny import tiny_base


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base") / "tiny")


def windows(base_dir: Path, count: int, max_seq_length: int, words: int = 1) -> bytes:
    episodes = [episode(task, words=words) for task in range(count)]
    _, files = synthesize_in_memory([episodes], 0, encoder=FileEncoder(base_dir, max_seq_length))
    return files["train.windows.parquet"]


def test_tokens_windows_and_learned_share_are_measured(base_dir: Path) -> None:
    statistics = measure_packing(windows(base_dir, 5, 512), 512)
    assert statistics is not None
    assert (statistics.examples, statistics.windows, statistics.divided, statistics.truncated) == (4, 4, 0, 0)
    assert 0 < statistics.p50 <= statistics.p95 <= statistics.longest <= 512
    assert statistics.fill == pytest.approx(statistics.p50 / 512, rel=0.1)
    assert 0 < statistics.loss < 0.5


def test_long_examples_are_divided_and_truncated(base_dir: Path) -> None:
    cropped = measure_packing(windows(base_dir, 5, 32, words=100), 32)
    assert cropped is not None
    assert (cropped.examples, cropped.divided, cropped.truncated) == (4, 4, 8)
    assert cropped.fill > 0.8


def test_without_windows_there_are_no_statistics() -> None:
    assert measure_packing(write_windows(WindowTable([], "r")), 512) is None


def test_the_report_page_shows_packing_statistics(base_dir: Path) -> None:
    report, _ = synthesize_in_memory([[episode(task) for task in range(5)]], 0)
    packing = measure_packing(windows(base_dir, 5, 512), 512)
    assert packing is not None
    packing = packing.model_copy(update={"left_out": {"a <reason>": 3}})
    page = render_report_page(report.model_copy(update={"packing": packing}), "it")
    assert "How examples fit into windows" in page
    assert "a &lt;reason&gt;" in page
    assert "How examples fit into windows" not in render_report_page(report, "it")
