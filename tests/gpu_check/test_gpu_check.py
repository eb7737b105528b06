"""What the check of a GPU does, without one: on the CPU and on a simulated GPU, in small sizes."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from looper.jobs.consolidation.model.device import Device
from tests.gpu_check import __main__, large_base, training
from tests.gpu_check.large_base import check_large_base, pick_size
from tests.gpu_check.result import PartResult
from tests.gpu_check.run import MARK, PARTS, run_all, write_result
from tests.gpu_check.training import check_equality, check_strategies
from tests.jobs.consolidation.pretended_gpu import GPU, pretended_gpu

ON_CPU = Device(torch.device("cpu"), torch.float32, max_tokens_per_pass=128)
ON_GPU = Device(GPU, torch.bfloat16, max_tokens_per_pass=256)


def ignore(_: str) -> None:
    """Nobody waits."""


@pytest.fixture
def gpu() -> Iterator[None]:
    with pretended_gpu():
        yield


def test_tenants_of_one_pass_equal_each_alone(tmp_path: Path, gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    result = check_equality(tmp_path, ON_GPU, ignore, ("Llama", "Gemma-3"))
    assert result.errors == []
    assert result.figures.keys() == {"Llama", "Gemma-3"}
    monkeypatch.setattr(training, "FLOAT32_TOLERANCE", 0)
    assert (
        check_equality(tmp_path, ON_GPU, ignore, ("Llama",)).errors[0].startswith("Llama: tenants of one pass differ")
    )


def test_a_strategy_that_fails_is_named_and_the_others_go_on(tmp_path: Path, gpu: None, one_process: None) -> None:
    recipes = [{"strategy": "none", "method": "adalora", "rank": 1}, {"strategy": "replay+distill"}]
    result = check_strategies(tmp_path, ON_GPU, ignore, recipes)
    assert len(result.errors) == 1
    assert result.errors[0].startswith("none, adalora, 1: ")
    assert result.figures == {"trained_twice": 1}


def test_speed_and_memory_of_many_tenants(tmp_path: Path, one_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    result = check_large_base(tmp_path, ON_CPU, ignore)
    assert result.errors == []
    assert result.figures.keys() == {"1 tenants", "4 tenants", "4 tenants, activations computed again"}
    for figures in result.figures.values():
        assert figures["tokens_per_s"] > 0
        assert figures["planned_bytes"] > 0
        assert figures["mfu"] is None, "there is no card whose peak is known"
    monkeypatch.setattr(large_base, "_step", lambda *_: [float("nan")])
    alone = replace(pick_size(ON_CPU), tenants=(1, 2))
    errors = check_large_base(tmp_path, ON_CPU, ignore, alone).errors
    assert [each.partition(":")[0] for each in errors] == [
        "1 tenants",
        "2 tenants",
        "2 tenants, activations computed again",
    ]


PROGRAMS = {
    "good": f"print({MARK + 'half'!r}); print('noise'); write(figures={{'answers': 3}})",
    "wrong": "write(errors=['a is b'])",
    "dies": "sys.exit('the driver is gone')",
    "hangs": "print('starts'); threading.Event().wait()",
}


def command_of(name: str, folder: Path) -> list[str]:
    """A process that does what its name says."""
    write = f"write = lambda **more: pathlib.Path({str(folder)!r}, 'result.json').write_text(json.dumps(more))"
    return [sys.executable, "-c", f"import json, pathlib, sys, threading\n{write}\n{PROGRAMS[name]}"]


def test_each_part_gets_one_line_and_none_ends_the_others(tmp_path: Path) -> None:
    lines: list[str] = []
    results = run_all(tmp_path, lines.append, {"wrong": 60, "dies": 60, "hangs": 1, "good": 60}, command_of)
    assert {name: each.errors for name, each in results.items()} == {
        "wrong": ["a is b"],
        "dies": ["ended with 1: the driver is gone"],
        "hangs": ["took longer than 1 s"],
        "good": [],
    }
    assert [line.split()[:2] for line in lines] == [
        ["✗", "wrong"],
        ["✗", "dies"],
        ["✗", "hangs"],
        ["half"],
        ["✓", "good"],
    ]
    assert lines[-1].endswith("answers 3")


@pytest.mark.parametrize(("errors", "code"), [([], 0), (["a is b"], 1)])
def test_without_a_gpu_no_file_is_written(
    errors: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--out", str(tmp_path)])
    monkeypatch.setattr(__main__, "run_all", lambda *_: {"large": PartResult(errors=errors)})
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert ended.value.code == code
    assert list(tmp_path.iterdir()) == []


def test_the_file_has_the_name_of_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA H200")
    result = PartResult({"answers": 3}, seconds=1.5)
    file = write_result(tmp_path, {"engine": result})
    assert file == tmp_path / "gpu-nvidia-h200.json"
    written = json.loads(file.read_text())
    assert written["passed"]
    assert written["parts"] == {"engine": asdict(result)}


def test_all_parts_together_take_ten_minutes() -> None:
    assert sum(PARTS.values()) <= 600
