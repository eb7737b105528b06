"""Ctrl-C at each stage of the demo: nothing is left running, nothing is lost, the next run goes on."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from looper.gym.generate import record
from looper.gym.workplaces import WORKPLACES
from tests.tiny import tiny_base

STAGES = ["base model", "ingest", "ray", "synthesise", "train", "serve"]
"""An interrupt comes a moment after each of these has ended, so in the one that follows."""


class Demo:
    """The demo on the tiny base model, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        tiny_base(folder / "base")
        for name, workplace in WORKPLACES.items():
            file = folder / "examples" / f"{name}.jsonl"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"".join(one.line() for one in record(workplace, seed=0, tasks=10)))
        self.folder = folder

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "looper", "demo", "--examples", "examples", "--out", "out"],
            cwd=self.folder,
            env=os.environ | {"LOOPER_BASE": str(self.folder / "base"), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


@pytest.mark.bench
@pytest.mark.timeout(1800)
def test_ctrl_c_at_each_stage_and_then_to_the_end(tmp_path: Path) -> None:
    demo = Demo(tmp_path)
    for stage in STAGES:
        process = demo.start()
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(f"✓ {stage}"):
                break
        family = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=120)
        assert process.returncode == 130, (stage, said)
        assert said.strip().splitlines()[-1].startswith("error: interrupted"), (stage, said)
        assert "Traceback" not in said, (stage, said)
        _, alive = psutil.wait_procs(family, timeout=20)
        assert alive == [], stage
        assert not (tmp_path / "out" / "demo.json").exists()

    process = demo.start()
    said, problems = process.communicate(timeout=600)
    assert process.returncode == 0, said + problems
    report = json.loads((tmp_path / "out" / "demo.json").read_text())
    assert {skill["model"] for skill in report["skills"]} == set(WORKPLACES)
    assert all(len(skill["digest"]) == 64 for skill in report["skills"])
    assert (tmp_path / "out" / "demo.png").stat().st_size > 10_000
