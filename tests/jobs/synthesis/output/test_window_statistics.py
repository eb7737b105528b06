"""How examples fit into windows: measured by the base's own tokens, and said where they do not fit."""

from pathlib import Path

import pytest

from looper.jobs.synthesis.output.output_files import in_memory
from looper.jobs.synthesis.output.report_page import to_html
from looper.jobs.synthesis.output.window_statistics import MOST, packing
from tests.jobs.episodes import episode
from tests.tiny import tiny_base


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base") / "tiny")


def examples(count: int, words: int = 1) -> bytes:
    _, files = in_memory([[episode(task, words=words) for task in range(count)]], 0)
    return files["train.parquet"]


def test_tokens_windows_and_what_is_learned_are_counted(base_dir: Path) -> None:
    found = packing(examples(5), base_dir, 512)
    assert found is not None
    assert (found.examples, found.windows, found.divided, found.truncated) == (4, 4, 0, 0)
    assert 0 < found.p50 <= found.p95 <= found.longest <= 512
    assert found.fill == pytest.approx(found.p50 / 512, rel=0.1)
    assert 0 < found.loss < 0.5


def test_what_does_not_fit_is_divided_and_truncated(base_dir: Path) -> None:
    whole = packing(examples(5, words=100), base_dir, 1024)
    cropped = packing(examples(5, words=100), base_dir, 32)
    assert whole is not None
    assert cropped is not None
    assert cropped.p50 == whole.p50 > 32
    assert (cropped.divided, cropped.truncated) == (4, 4)
    assert cropped.fill > 0.8


def test_no_more_are_measured_than_it_takes(base_dir: Path) -> None:
    found = packing(examples(MOST + 20), base_dir, 512)
    assert found is not None
    assert found.examples == MOST


def test_without_examples_or_a_base_there_is_nothing_to_say(base_dir: Path, tmp_path: Path) -> None:
    _, files = in_memory([[episode(1, success=False)]], 0)
    assert packing(files["train.parquet"], base_dir, 512) is None
    assert packing(examples(5), tmp_path, 512) is None


def test_the_page_shows_it(base_dir: Path) -> None:
    report, files = in_memory([[episode(task) for task in range(5)]], 0)
    measured = report.model_copy(update={"packing": packing(files["train.parquet"], base_dir, 512)})
    assert "How examples fit into windows" in to_html(measured, "it")
    assert "How examples fit into windows" not in to_html(report, "it")
